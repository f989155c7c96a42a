"""From the bytes of a video or an image to its pictures.

decoder.py (what the rest of the pipeline calls), decode.py, signatures.py, streams.py (opens a file), packets.py and
probe.py (what it says), seek.py, pyav_pictures.py, decord_pictures.py, images/, pixels/ (colours and size);
memory_limit.py bounds a decoder, synthetic/ makes videos.
"""
