"""What a run will take, before any GPU is taken.

preview.py, extrapolate.py, ceiling.py.
"""
