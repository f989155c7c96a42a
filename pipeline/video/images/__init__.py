"""From the bytes of an image to its picture: image.py (what the file says), srgb.py (its colours); both use Pillow."""
