"""From the bytes of a video to its pictures.

signatures.py, probe.py (what the header says), decode.py, pyav_pictures.py, resize.py; decoder.py is the protocol that
the rest of the pipeline sees, memory_limit.py bounds a decoder, synthetic.py makes videos for demos and tests.
"""
