"""From a decoded frame to the pixels of a clip: rgb.py (FFmpeg's filters), tonemap.py (HDR), resize.py."""
