"""The pipeline from WebDataset shards to Parquet latents: one file per concern, one file per heavy library.

It does not know the command line (jobs/) and holds no model code (encoder/).
"""
