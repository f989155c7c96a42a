"""How a clip passes through a model: chunk by chunk, whole, or in tiles.

chunks.py, engines.py, whole_clip.py, tiles.py; footprint.py, receptive_field.py and layer_fields.py read off a model
what that takes.
"""
