"""From rows to committed files.

slice_writer.py, parts.py (one Parquet file), ledger.py (what a shard has committed, and its manifest).
"""
