"""CPU seconds that a clip takes, by step, beside plain Decord and plain PyAV reading the same frames."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import decord

from encoder import LatentSpec
from pipeline.clips.plan import ClipRules, plan_clips
from pipeline.config.latents import ClipConfig
from pipeline.config.runtime import LimitsConfig
from pipeline.records import ClipSpec
from pipeline.video.decode import marked, memory_file
from pipeline.video.pixels.resize import fit, get_ready
from pipeline.video.pixels.rgb import Look, ToRgb
from pipeline.video.probe import probe
from pipeline.video.pyav_pictures import PyavPictures, frames_of
from pipeline.video.signatures import container_of
from pipeline.video.streams import open_video
from pipeline.video.synthetic.videos import make_video

SIZES_PX = {"720p": (1280, 720), "1080p": (1920, 1080)}
SOURCE_FPS, SOURCE_FRAMES = 30, 192
CODING = {"g": "250", "crf": "23", "bf": "3"}
RULES = ClipRules(LatentSpec("cogvideox", latent_channels=16, temporal_ratio=4, spatial_ratio=8), chunk_frames=8)

Steps = dict[str, float]


@dataclass(frozen=True, slots=True)
class ClipCost:
    """Medians of CPU seconds for one clip: ours by step, and of the two libraries by themselves."""

    size: str
    source_frames: int
    clip_frames: int
    ours: Steps
    decord: float
    pyav: float


def measure(size: str, rounds: int) -> ClipCost:
    """The cost of the default clip out of a made video, all three interleaved."""
    video = make_video(SOURCE_FRAMES, SOURCE_FPS, *SIZES_PX[size], options=CODING)
    get_ready()
    with memory_file(video) as path:
        clip = _clip(path, video)
        runs = [_round(path, video, clip) for _ in range(rounds)]
    ours = {step: statistics.median(run[0][step] for run in runs) for step in runs[0][0]}
    decord_seconds, pyav_seconds = (statistics.median(run[1][which] for run in runs) for which in (0, 1))
    return ClipCost(size, clip.frame_indices[-1] + 1, clip.frames, ours, decord_seconds, pyav_seconds)


def _round(path: str, video: bytes, clip: ClipSpec) -> tuple[Steps, tuple[float, float]]:
    return our_steps(path, video, clip), (_seconds(by_decord, path, clip), _seconds(by_pyav, path, clip))


def _clip(path: str, video: bytes) -> ClipSpec:
    header = probe(path, container_of(video), LimitsConfig()).header
    return plan_clips(header, ClipConfig(), RULES)[0]


def our_steps(path: str, video: bytes, clip: ClipSpec) -> Steps:
    """CPU seconds by step: read (demux and probe), decode, convert to RGB, resize."""
    seconds: Steps = {}
    with _timed(seconds, "read"):
        found = probe(path, container_of(video), LimitsConfig())
    wanted = {found.packets.marks[index] for index in clip.frame_indices}
    with open_video(path, container_of(video), LimitsConfig()) as opened:
        to_rgb = ToRgb(found.header, Look(), opened.stream.time_base)
        needed = marked([clip], found.header.frames)
        lean = PyavPictures(path, found, LimitsConfig(), strict=False, look=Look()).lean_packets(opened, needed)
        frames = frames_of(opened, lean, skip_errors=False)
        for _ in clip.frame_indices:
            with _timed(seconds, "decode"):
                frame = next(frame for frame in frames if frame.pts in wanted)
            with _timed(seconds, "convert"):
                picture = to_rgb(frame)
            with _timed(seconds, "resize"):
                fit(picture, clip.geometry)
    return seconds


def by_decord(path: str, clip: ClipSpec) -> None:
    """Reads forward, as random access gives wrong frames in many files, and keeps those of the clip."""
    wanted, reader = set(clip.frame_indices), decord.VideoReader(path, num_threads=1)
    for index in range(clip.frame_indices[-1] + 1):
        picture = reader.next()
        if index in wanted:
            picture.asnumpy()


def by_pyav(path: str, clip: ClipSpec) -> None:
    """Reads forward and converts the frames of the clip."""
    wanted = set(clip.frame_indices)
    with av.open(path) as opened:
        opened.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(opened.decode(video=0)):
            if index in wanted:
                frame.to_ndarray(format="rgb24")
            if index == clip.frame_indices[-1]:
                return


def _seconds(read: Callable[[str, ClipSpec], None], path: str, clip: ClipSpec) -> float:
    seconds: Steps = {}
    with _timed(seconds, "all"):
        read(path, clip)
    return seconds["all"]


@contextmanager
def _timed(seconds: Steps, step: str) -> Iterator[None]:
    began = time.process_time()
    yield
    seconds[step] = seconds.get(step, 0.0) + time.process_time() - began
