"""From URLs to samples.

listing.py (which shards), samples.py (either kind), tar.py, table.py with table_rows.py and text_rows.py; pack.py makes
shards of folders.
"""
