"""Example configurations; their keys are those of pipeline/config.py.

It holds no code.
"""
