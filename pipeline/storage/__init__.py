"""Any file anywhere, by fsspec.

urls.py (as text), files.py (reading by URL), store.py (an output root: create if absent), local_files.py (the same on a
local disk), node_cache.py (one download for a node).
"""
