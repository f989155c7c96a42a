"""A sample's JSON: its fields, and the filters on them.

text.py (from bytes to text), fields.py, conditions.py (the language of `filter.where`), filters.py.
"""
