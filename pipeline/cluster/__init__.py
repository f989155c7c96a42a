"""Ray: the replicas and the loop that feeds them.

Read cluster.py first, then fleet.py (who does what next), replica.py, decoder.py, nodes.py, waiting.py,
convolutions.py, cpus.py, metrics.py.
"""
