"""What the machine gives: memory, threads, uploads, time.

threads.py, workspace.py, memory.py, uploads.py, timing.py.
"""
