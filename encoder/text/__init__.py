"""Captions to embeddings.

presets.py (what each family does with padding), files.py (what a text encoder's folder holds), preset_encoder.py (T5
and UMT5 by these rules), pipeline_encoder.py (a diffusers pipeline's own code).
"""
