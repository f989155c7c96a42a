"""What a user may ask for, and which parts of it make two runs the same.

load.py (the whole configuration), section.py, then its sections: input.py (input, filter), latents.py (clip, encoder,
output), runtime.py (runtime, limits), text.py; identity.py.
"""
