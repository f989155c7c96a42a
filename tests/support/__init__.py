"""What tests share; no tests.

paths.py, runs.py (inputs and whole runs), makers.py (made-up values), clips.py, encoders.py, remembering.py, stores.py,
decoders.py, nodes.py, faulty_proxy.py.
"""
