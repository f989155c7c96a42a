"""The same run as a job of a cluster.

submit.py, then options.py, credentials.py, rayjob.py, slurm.py, kuberay.py, manifest.py, which decide; dashboard.py,
sending.py and following.py, which ask and send. notice.py runs in the pods of KubeRay.
"""
