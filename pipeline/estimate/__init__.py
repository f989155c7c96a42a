"""What a run will take, before it takes a GPU.

preview.py (a few samples), extrapolate.py (from them to the whole run), ceiling.py (the encoder alone).
"""
