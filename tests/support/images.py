"""Small images of all kinds, made by Pillow."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from pipeline.records import Uint8Frames

FORMATS = ("jpeg", "png", "webp", "avif")
EXACT = {"jpeg": {"quality": 100, "subsampling": 0}, "png": {}, "webp": {"lossless": True}, "avif": {"quality": 100}}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def drawn(width_px: int = 160, height_px: int = 96, shift: int = 0) -> Uint8Frames:
    """`h w c`: gradients that differ along both axes, so that every turn of the picture is another picture."""
    y, x = np.mgrid[0:height_px, 0:width_px]
    red, green, blue = (x + shift) % 160, 255 - 2 * y % 256, (x + y) // 2 % 256
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def file_of(image: "Image.Image | np.ndarray[Any, Any]", format_: str = "png", **options: Any) -> bytes:
    """An image file, as near to the pixels as the format allows."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format_, **(EXACT[format_] | options))
    return file.getvalue()


def animated(format_: str, frames: int = 3) -> bytes:
    """Frames of a moving gradient, ten a second."""
    first, *others = (Image.fromarray(drawn(shift=20 * number)) for number in range(frames))
    return file_of(first, format_, save_all=True, append_images=others, duration=100)
