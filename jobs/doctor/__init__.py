"""The command `doctor`: whether this machine can do what a configuration asks.

Start reading at doctor.py.
"""
