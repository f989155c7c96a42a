"""What a run will take, before it takes a GPU.

preview.py (a few samples), extrapolate.py (from them to the whole run), texts.py (text embeddings), ceiling.py (the
encoder alone).
"""
