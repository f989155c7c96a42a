"""One shard from start to end, in one process.

task.py reads, decodes, encodes, writes and commits; encode.py turns one sample's frames into rows; load.py brings the
encoder; background.py is what happens beside the encoding.
"""
