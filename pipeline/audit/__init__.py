"""What a run left: look at it, check it, mend it.

status.py, summary.py and report/ (how far, how much), show.py (one clip), verify.py and repair.py (check, set aside),
reencode.py and redecode.py (compare with the source again).
"""
