"""A sample's JSON: its fields, and the filters on them.

fields.py, conditions.py (the language of `filter.where`), filters.py.
"""
