"""Example configurations; their keys are those of pipeline/config/load.py.

It holds no code.
"""
