"""From URLs to samples.

listing.py (which shards), samples.py (of either kind), tar.py with compressed.py and grouping.py, table.py with
table_rows.py, parquet_rows.py and text_rows.py, annotations.py (captions, spans), shard_errors.py; pack.py makes shards
of folders.
"""
