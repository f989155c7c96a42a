"""A picture becomes the bucket's size: antialiased resize and crop, uint8 in and out; uses Pillow."""

import numpy as np
from PIL import Image

from pipeline.records import Geometry, Uint8Frames


def fit(picture: Uint8Frames, geometry: Geometry) -> Uint8Frames:
    """`h w c` -> `h w c`: bicubic over the area that a target pixel covers, computed for the kept part only."""
    source_height_px, source_width_px = picture.shape[:2]
    resized = (geometry.resized_height_px, geometry.resized_width_px)
    if picture.shape[:2] == resized == (geometry.height_px, geometry.width_px):
        return np.ascontiguousarray(picture)
    across = source_width_px / geometry.resized_width_px
    down = source_height_px / geometry.resized_height_px
    box = (
        geometry.left_px * across,
        geometry.top_px * down,
        (geometry.left_px + geometry.width_px) * across,
        (geometry.top_px + geometry.height_px) * down,
    )
    size_px = (geometry.width_px, geometry.height_px)
    return np.asarray(Image.fromarray(picture).resize(size_px, Image.Resampling.BICUBIC, box=box))
