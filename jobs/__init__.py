"""The command line: thin commands over the pipeline, and the same run as a job of a cluster.

cli.py, arguments.py, commands/, submit/, signals.py (SIGINT and SIGTERM), console.py (what is printed).
"""
