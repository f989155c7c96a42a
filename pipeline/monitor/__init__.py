"""What happens while a run is under way, for people and machines.

events.py, progress.py, event_log.py, metrics.py.
"""
