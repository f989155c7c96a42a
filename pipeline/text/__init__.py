"""Text embeddings beside the latents of a run, in a root of their own: OUT/text/NAME.

captions.py (which captions the rows have now), load.py (the text encoder), parts.py (rows into a part, and back),
slices.py (a slice on its way to storage), manifests.py (what a shard has, and totals), task.py (one shard from start to
end), check.py (what verify asks), remove.py (texts of rows that were removed).
"""
