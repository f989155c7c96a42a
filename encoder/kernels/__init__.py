"""How convolutions and norms are computed fast.

direct.py; winograd.py (the algorithm), torch_winograd.py; c_winograd.py and c_norms.py, the C sources, c_library.py.
"""
