"""A picture becomes the bucket's size: antialiased resize and crop, uint8 in and out; uses torch's kernel for uint8.

torch is imported by the first picture that has another size, and `get_ready` does so before a worker's first video.
"""

import numpy as np

from pipeline.records import Geometry, Uint8Frames


def get_ready() -> None:
    """Imports torch into a decode worker, which decodes on one core."""
    import torch

    torch.set_num_threads(1)


def fit(picture: Uint8Frames, geometry: Geometry) -> Uint8Frames:
    """`h w c` -> `h w c`: bicubic over the area that a target pixel covers, then the centre."""
    size_px = (geometry.resized_height_px, geometry.resized_width_px)
    if picture.shape[:2] != size_px:
        picture = _resized(picture, size_px)
    below, right = geometry.top_px + geometry.height_px, geometry.left_px + geometry.width_px
    return np.ascontiguousarray(picture[geometry.top_px : below, geometry.left_px : right])


def _resized(picture: Uint8Frames, size_px: tuple[int, int]) -> Uint8Frames:
    from torch import from_numpy  # takes a second: a process that resizes nothing does not pay
    from torch.nn.functional import interpolate

    planes = from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    resized = interpolate(planes, size=size_px, mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()
