"""Which frames of a video become clips, and how they are resized and cropped: pure functions.

plan.py, then frames.py, geometry.py, and continuous.py for rows that continue each other.
"""
