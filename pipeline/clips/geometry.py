"""Which bucket a video fits, and how its frames become the bucket's size: resize in proportion, then crop."""

import math

from pipeline.config.latents import ClipConfig
from pipeline.errors import SampleError
from pipeline.records import Geometry, VideoHeader


def choose_geometry(header: VideoHeader, clip: ClipConfig) -> Geometry:
    """The resize and crop to the bucket that is nearest in log aspect ratio.

    Of equally near buckets, the one with the most pixels that needs no upscaling, else the least upscaled.
    """
    fits = [cover(header, height_px, width_px) for height_px, width_px in clip.bucket_sizes_px]
    if not clip.upscale:
        fits = [fit for fit in fits if not is_upscaled(header, fit)]
    if not fits:
        aspect = f", pixels {header.sample_aspect:.3f} wide" if header.sample_aspect != 1 else ""
        raise SampleError(
            "clip",
            "too_small",
            f"{header.height_px}x{header.width_px} (height x width{aspect}) is too small for "
            f"{', '.join(clip.buckets)}; clip.upscale: true would enlarge it",
        )
    return min(fits, key=lambda fit: _preference(header, fit))


def cover(header: VideoHeader, height_px: int, width_px: int) -> Geometry:
    """The smallest proportional resize, to square pixels, that covers a bucket; cropped at the centre."""
    shown_width_px = header.width_px * header.sample_aspect
    scale = max(width_px / shown_width_px, height_px / header.height_px)
    resized_width_px = max(width_px, round(shown_width_px * scale))
    resized_height_px = max(height_px, round(header.height_px * scale))
    return Geometry(
        resized_width_px=resized_width_px,
        resized_height_px=resized_height_px,
        left_px=(resized_width_px - width_px) // 2,
        top_px=(resized_height_px - height_px) // 2,
        width_px=width_px,
        height_px=height_px,
    )


def is_upscaled(header: VideoHeader, fit: Geometry) -> bool:
    """Whether either side gets more pixels than are stored."""
    return fit.resized_width_px > header.width_px or fit.resized_height_px > header.height_px


def _preference(header: VideoHeader, fit: Geometry) -> tuple[float, bool, int, int]:
    aspect = header.width_px * header.sample_aspect / header.height_px
    distance = abs(math.log(aspect) - math.log(fit.width_px / fit.height_px))
    upscaled = is_upscaled(header, fit)
    area_px = fit.width_px * fit.height_px
    # width last: a square source is as far from 480x720 as from 720x480, and the order of the list must not decide
    return round(distance, 6), upscaled, area_px if upscaled else -area_px, fit.width_px
