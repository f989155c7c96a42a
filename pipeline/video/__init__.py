"""From the bytes of a video to its pictures.

decoder.py (what the rest of the pipeline calls), decode.py, signatures.py, probe.py (what the header says),
decord_pictures.py, pyav_pictures.py, resize.py; memory_limit.py bounds a decoder, synthetic.py makes test videos.
"""
