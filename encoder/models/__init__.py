"""The architectures, layer by layer.

cogvideox.py, wan.py, layers.py, norms.py; layouts.py says how checkpoints name their weights.
"""
