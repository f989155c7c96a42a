"""What a run left: look at it, check it, mend it.

status.py, summary.py, report.py, show.py, verify.py, repair.py, reencode.py, redecode.py.
"""
