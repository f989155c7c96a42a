"""The same run as a job on a cluster.

submit.py, then rayjob.py, slurm.py, kuberay.py.
"""
