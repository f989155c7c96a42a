"""Ray: the replicas and the loop that feeds them.

Read cluster.py first, then fleet.py (who does what next), decoder.py, metrics.py.
"""
