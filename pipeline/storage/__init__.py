"""Any file anywhere, by fsspec.

store.py (create if absent), retiring.py, local_files.py, node_cache.py.
"""
