"""A finished run as the files that another project's trainer reads.

exporting.py (an export from start to end), target.py (what a target is), texts.py (whether texts fit, and which
captions were embedded), tensor_file.py (safetensors), and one file for each target: fastvideo.py, finetrainers.py,
cogvideo.py, ltx.py, musubi.py, automodel.py, dfm.py.
"""
