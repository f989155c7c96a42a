"""The memory of decoding hardly follows the length of a video: some bytes for each frame, and no pictures."""

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

ROOT = Path(__file__).parent.parent
FPS = 25
PROGRAM = """
import sys
from encoder.spec import spec_of
from pipeline.clips import ClipRules
from pipeline.config import ClipConfig, LimitsConfig
from pipeline.decode import decode_sample
from pipeline.records import Chunk

clip = ClipConfig(frames="full", fps=None, buckets=("64x64",))
items = decode_sample(sys.stdin.buffer.read(), clip, LimitsConfig(), False, ClipRules(spec_of("tiny"), 8))
frames = sum(len(item.frames) for item in items if isinstance(item, Chunk))
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(frames, peak)
"""


def long_video(minutes: int) -> bytes:
    """A new grey each second, so that an hour is a megabyte or so."""
    greys = [
        av.VideoFrame.from_ndarray(np.full((96, 64), level, np.uint8), format="yuv420p") for level in range(16, 236)
    ]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=FPS)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.options = {"preset": "ultrafast", "crf": "40"}
        for number in range(minutes * 60 * FPS):
            frame = greys[number // FPS % len(greys)]
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def decoded(video: bytes) -> tuple[int, int]:
    """Frames that came, and the peak memory in KiB of a process that did nothing else."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=video, cwd=ROOT, capture_output=True, check=True)
    frames, peak_kib = done.stdout.split()
    return int(frames), int(peak_kib)


def test_twenty_minutes_take_hardly_more_memory_than_two() -> None:
    (short, short_kib), (long, long_kib) = decoded(long_video(2)), decoded(long_video(20))
    assert (short, long) == (2 * 60 * FPS - 3, 20 * 60 * FPS - 3)  # the nearest 1 + 4k below
    assert long_kib < 1.1 * short_kib
