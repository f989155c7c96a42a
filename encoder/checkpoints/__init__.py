"""What published checkpoints say: how they name tensors, and which architecture a config or the shapes describe.

layout.py, then a file for each family; known.py: all of them by name, and whose tensors a file holds.
"""
