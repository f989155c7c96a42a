"""How convolutions and norms are computed fast.

winograd.py (the algorithm), torch_winograd.py, c_winograd.py and c_norms.py with the C sources, c_library.py.
"""
