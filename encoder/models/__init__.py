"""The architectures, layer by layer.

cogvideox.py, wan.py, a file for each family; the layers that they share: layers.py, stem.py, norms.py, boxes.py.
"""
