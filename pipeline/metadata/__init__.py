"""What a sample's JSON says: fields and filters.

fields.py, filters.py.
"""
