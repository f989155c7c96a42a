"""How a clip passes through a model: chunk by chunk, whole, or in tiles.

chunks.py, engines.py, whole_clip.py, tiles.py; footprint.py: the memory that it takes; receptive_field.py and
layer_fields.py: how many earlier frames a latent depends on.
"""
