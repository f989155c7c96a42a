"""Images of any mode to 8 bits of sRGB, on black where they are transparent; uses Pillow and its LittleCMS."""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import SampleError
from pipeline.records import Uint8Frames
from pipeline.video.pixels.rgb import on_black

if TYPE_CHECKING:
    from PIL.Image import Image

PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # by mode: that of a profile which describes such pixels


def rgb_of(image: "Image", use_profile: bool, strict: bool) -> Uint8Frames:
    """`h w c` in sRGB, by the image's own profile if it has one.

    Raises:
        SampleError: with `strict`, the profile cannot be read, or is of other pixels than these.
    """
    if image.mode.startswith("I;16"):
        image = _in_8_bits(image)
    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")  # of a palette, or with one colour that is transparent
    profile = image.info.get("icc_profile") if use_profile else None
    colours = image.convert({"1": "L", "LA": "L", "L": "L", "CMYK": "CMYK"}.get(image.mode, "RGB"))
    if profile:
        colours = _to_srgb(colours, profile, strict)
    picture = np.array(colours.convert("RGB"))  # a copy, which may be written: torch asks for that
    if "A" not in image.getbands():
        return picture
    return on_black(np.dstack([picture, np.asarray(image.getchannel("A"))]))


def _in_8_bits(image: "Image") -> "Image":
    """Grey of 16 bits, rounded; Pillow's own conversion cuts what is above 255."""
    from PIL import Image

    info = dict(image.info)
    grey, clear = np.asarray(image).astype(np.uint32), info.pop("transparency", None)
    narrow = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    if clear is not None:
        narrow = Image.merge("LA", (narrow, Image.fromarray(np.where(grey == clear, 0, 255).astype(np.uint8))))
    narrow.info = info
    return narrow


def _to_srgb(colours: "Image", profile: bytes, strict: bool) -> "Image":
    """The colours as the profile means them (perceptual intent), or as they are where it cannot be used."""
    from PIL import ImageCms

    try:
        ours = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = ours.profile.xcolor_space.strip()
        if space != PROFILE_SPACES[colours.mode]:
            raise ValueError(f"it is of {space} pixels, these are {colours.mode}")
        srgb = ImageCms.createProfile("sRGB")
        # grey would be interpolated, by up to 10 levels off in the dark
        flags = ImageCms.Flags.NOOPTIMIZE if colours.mode == "L" else ImageCms.Flags.NONE
        found = ImageCms.profileToProfile(colours, ours, srgb, ImageCms.Intent.PERCEPTUAL, "RGB", flags=flags)
        assert found is not None, "the conversion is not in place"
        return found
    except (OSError, ValueError, ImageCms.PyCMSError) as error:
        if strict:
            raise SampleError("decode", "damaged", f"its colour profile cannot be used: {error}") from error
        return colours
