"""The same run as a job of a cluster.

submit.py, then rayjob.py, slurm.py, kuberay.py.
"""
