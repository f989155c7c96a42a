"""Image files: their headers, and their pictures turned upright; uses Pillow, which the first image imports."""

import re
import struct
import warnings
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.runtime import LimitsConfig
from pipeline.errors import SampleError
from pipeline.records import Uint8Frames, VideoHeader
from pipeline.video.images.srgb import rgb_of
from pipeline.video.pixels.rgb import HDR_TRANSFERS, Look
from pipeline.video.pixels.tonemap import to_sdr
from pipeline.video.probe import PRIMARIES, TRANSFERS, UNKNOWN, check_size

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

ORIENTATION = 0x0112  # the tag of EXIF
# By its value: whether the picture is mirrored left to right, and then how many quarter turns counter-clockwise.
UPRIGHT = {2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}
AS_STORED = (False, 0)
# Where a file states primaries and transfer by the numbers of ITU-T H.273, and what begins its pixels.
CODING = {"png": (rb"cICP(.)(.)", b"IDAT"), "avif": (rb"colrnclx(..)(..)", b"mdat")}


class MissingFormatError(OSError):
    """This machine cannot decode what others can."""


@dataclass(frozen=True, slots=True)
class OpenImage:
    """An image whose header has been read."""

    header: VideoHeader
    data: bytes
    file: "ImageFile"
    is_mirrored: bool

    def pictures(self, look: Look, strict: bool, needed: bytearray) -> Iterator[tuple[int, Uint8Frames]]:
        """The only picture, upright, `h w c`, with its index.

        Raises:
            SampleError: it is damaged or cut short; with `strict`, its colour profile is.
        """
        assert list(needed) == [1], "a clip of an image has one frame"
        header = self.header
        with _refused("decode", "damaged"):
            if header.container == "png":
                _opened(self.data, "png").verify()  # its checksums, which decoding does not look at
            self.file.load()
        picture = rgb_of(self.file, use_profile=header.color_transfer not in HDR_TRANSFERS, strict=strict)
        if look.tonemap:
            picture = to_sdr(picture.astype(np.uint16) * 257, header.color_transfer, header.color_primaries == "bt2020")
        yield 0, np.rot90(np.fliplr(picture) if self.is_mirrored else picture, header.rotation_degrees // 90)


def open_image(data: bytes, format_: str, limits: LimitsConfig) -> OpenImage:
    """Reads the header of an image; `format_` is its signature's.

    Raises:
        SampleError: it cannot be read, is animated, or is larger than the limits.
        MissingFormatError: Pillow, as it is installed here, lacks the format.
    """
    with _refused("probe", "unreadable"):
        file = _opened(data, format_)
        frames = 1 if format_ == "jpeg" else getattr(file, "n_frames", 1)  # further pictures of a JPEG are previews
        if frames > 1:
            what = f"an animated {format_} of {frames} frames: write it as a video, such as MP4 or WebM"
            raise SampleError("probe", "animated", what)
        check_size(file.width, file.height, limits)
        is_mirrored, turns = UPRIGHT.get(_orientation(file), AS_STORED)
    return OpenImage(_header(file, data, format_, turns), data, file, is_mirrored)


def _header(file: "ImageFile", data: bytes, format_: str, turns: int) -> VideoHeader:
    width_px, height_px = file.size[::-1] if turns % 2 else file.size
    primaries, transfer = _coding(data, format_)
    return VideoHeader(
        container=format_,
        codec=format_,
        width_px=width_px,
        height_px=height_px,
        sample_aspect=1.0,
        rotation_degrees=90 * turns,
        pts_seconds=array("d", [0.0]),
        duration_seconds=0.0,
        pixel_format=file.mode,
        color_transfer=TRANSFERS.get(transfer, UNKNOWN),
        color_primaries=PRIMARIES.get(primaries, UNKNOWN),
        has_alpha=file.has_transparency_data,
        media_type="image",
    )


def _coding(data: bytes, format_: str) -> tuple[int, int]:
    """The numbers of primaries and transfer; 0 where a file states none."""
    pattern, pixels = CODING.get(format_, (b"", b""))
    found = re.compile(pattern, re.DOTALL).search(data, 0, data.find(pixels)) if pattern else None
    return (int.from_bytes(found[1], "big"), int.from_bytes(found[2], "big")) if found else (0, 0)


def _orientation(file: "ImageFile") -> int:
    """What EXIF says, or else XMP; EXIF that cannot be read says nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that EXIF ends too early
            return int(file.getexif().get(ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1


def _opened(data: bytes, format_: str) -> "ImageFile":
    from PIL import AvifImagePlugin, Image, features

    if format_ in ("webp", "avif") and not features.check(format_):
        raise MissingFormatError(f"Pillow was built without {format_}: install a wheel of Pillow 11.3 or later")
    Image.MAX_IMAGE_PIXELS = None  # limits.max_frame_px is the bound, before any pixel is decoded
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # decode tasks run side by side; their threads would only compete
    return Image.open(BytesIO(data), formats=[format_.upper()])


@contextmanager
def _refused(stage: str, reason: str) -> Iterator[None]:
    """What Pillow raises about a file becomes a SampleError; a lack of memory does not, as it is no fault of the file.

    Raises:
        SampleError: of this stage and reason.
    """
    from PIL import UnidentifiedImageError

    try:
        yield
    except MissingFormatError:
        raise
    except UnidentifiedImageError as error:  # it names an address in memory
        raise SampleError(stage, reason, "its header is damaged or cut short") from error
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error) as error:
        raise SampleError(stage, reason, " ".join(str(error).split())) from error
