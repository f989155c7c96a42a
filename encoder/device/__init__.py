"""What the machine provides: memory, threads, transfers, time.

threads.py, workspace.py, memory.py; uploads.py, downloads.py; timing.py, busy.py, simulated.py.
"""
