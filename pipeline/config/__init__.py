"""What a user may ask for, and which of it makes two runs the same.

load.py (the whole configuration), tree.py (YAML and overrides), input.py, runtime.py, identity.py.
"""
