"""What a machine or a cluster has and lacks for a run, before the run finds out.

findings.py has the words, machine.py looks at one machine, storage.py at input and output from there, and cluster.py
puts all of it together for every node of a configuration's cluster.
"""
