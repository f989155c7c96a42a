"""Ray: the replicas and the loop that feeds them.

Read cluster.py first, then joining.py (start or join a cluster), fleet.py (who does what next), replica.py, decoder.py,
nodes.py, gpus.py, claims.py, convolutions.py, cpus.py, logs.py, metrics.py.
"""
