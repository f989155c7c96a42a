"""Small real videos, encoded with PyAV, whose every frame shows its number where nothing else is drawn."""

import io
from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.records import Uint8Frames

NUMBER_BITS = 12  # of a frame's number, as black and white blocks along the top
TICKS_PER_SECOND = 12800  # of the clock that frames are written with
CODEC_OPTIONS = {"libx264": {"preset": "veryfast", "crf": "18", "mbtree": "0"}}  # its mbtree reads unset memory
Draw = Callable[[int, int, int, int], Uint8Frames]  # number, width, height, seed: `h w c`


def draw_frame(number: int, width_px: int, height_px: int, seed: int = 0) -> Uint8Frames:
    """`h w c`: a gradient that drifts, a disc that circles, and the number along the top."""
    rng = np.random.default_rng(seed)
    phase, speed = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.05, 0.2)
    y, x = np.mgrid[0:height_px, 0:width_px] / max(width_px, height_px)
    waves = [np.sin(3 * x + 2 * y + offset + speed * number) for offset in phase]
    picture = (128 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)
    centre_x = x.max() * (0.5 + 0.3 * np.cos(phase[0] + speed * number))
    centre_y = y.max() * (0.55 + 0.2 * np.sin(phase[0] + speed * number))
    picture[(x - centre_x) ** 2 + (y - centre_y) ** 2 < 0.01] = rng.integers(0, 256, 3)
    blocks = np.arange(width_px) * NUMBER_BITS // width_px
    picture[: height_px // 8] = np.where(number >> blocks & 1, 235, 16)[None, :, None]
    return picture


def make_video(
    frames: int,
    fps: float,
    width_px: int,
    height_px: int,
    seed: int = 0,
    container: str = "mp4",
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rotation_degrees: int = 0,
    pts_seconds: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    draw: Draw = draw_frame,
) -> bytes:
    """A video file of what `draw` draws. The same arguments give the same bytes.

    Args:
        container: FFmpeg's name of the format: mp4, matroska, webm, avi, mpegts, …
        rotation_degrees: counter-clockwise rotation that players apply; the stored picture is `width_px x height_px`.
        pts_seconds: when each frame is shown, ascending; None for a constant `fps`.
        options: of the codec, such as {"g": "12", "bf": "2"}; they are added to our own for libx264.
    """
    times = [index / fps for index in range(frames)] if pts_seconds is None else pts_seconds
    file = io.BytesIO()
    with av.open(file, "w", format=container, options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, pix_fmt
        stream.codec_context.options = CODEC_OPTIONS.get(codec, {}) | (options or {})
        stream.codec_context.thread_count = 1  # the bytes depend on how x264 divides its work over threads
        if pts_seconds is not None:
            stream.codec_context.time_base = Fraction(1, TICKS_PER_SECOND)
        if rotation_degrees:
            stream.set_display_rotation(rotation_degrees)
        for number, time in enumerate(times):
            frame = VideoFrame.from_ndarray(draw(number, width_px, height_px, seed), format="rgb24")
            frame.pts, frame.time_base = round(time * TICKS_PER_SECOND), Fraction(1, TICKS_PER_SECOND)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def read_number(picture: Uint8Frames) -> int:
    """The number that `draw_frame` wrote, from a picture `h w c` that may be compressed or resized, not cropped."""
    height_px, width_px = picture.shape[:2]
    columns = (2 * np.arange(NUMBER_BITS) + 1) * width_px // (2 * NUMBER_BITS)
    is_set = picture[height_px // 16, columns].mean(axis=-1) > 128
    return int((is_set << np.arange(NUMBER_BITS)).sum())
