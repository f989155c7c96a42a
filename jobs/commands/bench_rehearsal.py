"""What `bench pipeline --simulate` runs: its settings, the shards that it makes, and the configuration of a run.

It does not run or measure.
"""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from jobs.commands.bench_run import CONFIG
from pipeline.config.load import Config, load_config
from pipeline.input.pack import add_member
from pipeline.video.simulated import EXTENSION, SimulatedVideo, write_simulated
from pipeline.video.synthetic.videos import make_video

FPS = 8
REAL_FPS, REAL_SIZE_PX, REAL_VIDEOS = 24, (1280, 720), 2  # drawing and encoding more takes minutes
SERIAL_CLIPS = 8  # of a loop in one process, whose rate does not change with their number
WARM_UP = "warm-up"  # with which the names of shards begin that are not counted


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What is simulated. All decoders are loaded before, and the first `warm_up_clips` of devices are not counted.

    With `slow_video_seconds` the first video that is measured takes so long to decode, as a long film would.
    """

    ms_per_frame: float
    decode_ms_per_frame: float | None
    cpus: int
    clips: int
    replicas: int
    shape: tuple[int, int, int]
    slow_video_seconds: float = 0.0

    @property
    def warm_up_clips(self) -> int:
        return self.replicas * -(-self.cpus // self.replicas)

    @property
    def serial(self) -> "Rehearsal":
        """The same for a loop in one process."""
        return replace(self, cpus=1, clips=min(self.clips, SERIAL_CLIPS))

    def values(self) -> dict[str, Any]:
        """What figures are of, for the JSON."""
        names = ("ms_per_frame", "decode_ms_per_frame", "cpus", "replicas", "warm_up_clips", "slow_video_seconds")
        return {"simulated": True, "shape": list(self.shape), **{name: getattr(self, name) for name in names}}


def config_of(rehearsal: Rehearsal, overrides: Sequence[str], shards: Sequence[Path]) -> Config:
    """The configuration of `bench pipeline` with what is rehearsed; other keys may be overridden."""
    frames, height_px, width_px = rehearsal.shape
    own = [
        f"input.shards=[{','.join(map(str, shards))}]",
        "input.video=[simulated,mp4]",
        "encoder.name=simulated",
        f"encoder.weights=simulated:{rehearsal.ms_per_frame}",
        f"clip.frames={frames}",
        f"clip.fps={FPS}",
        f"clip.buckets=[{height_px}x{width_px}]",
        f"runtime.replicas={rehearsal.replicas}",
        "runtime.address=null",
    ]
    return load_config(str(CONFIG), [*overrides, *own])


Videos = tuple[list[bytes], str]  # to be repeated, and the extension of their names


def make_shards(folder: Path, rehearsal: Rehearsal, made: Videos) -> list[Path]:
    """For each replica a shard to warm up with, then one that is measured; of the videos that `make_videos` made."""
    folder.mkdir()
    videos, name = made
    shards = []
    for kind, clips in ((WARM_UP, rehearsal.warm_up_clips), ("measured", rehearsal.clips)):
        for number in range(rehearsal.replicas):
            path = folder / f"{kind}-{number:03d}.tar"
            with tarfile.open(path, "w") as tar:
                for clip in range(number, clips, rehearsal.replicas):
                    is_slow = rehearsal.slow_video_seconds > 0 and kind != WARM_UP and clip == 0
                    video = _slow_video(rehearsal) if is_slow else videos[clip % len(videos)]
                    extension = EXTENSION if is_slow else name
                    add_member(tar, f"clip-{clip:06d}.{extension}", BytesIO(video), len(video))
            shards.append(path)
    return shards


def _slow_video(rehearsal: Rehearsal) -> bytes:
    frames, height_px, width_px = rehearsal.shape
    ms_per_frame = 1000 * rehearsal.slow_video_seconds / frames
    return write_simulated(SimulatedVideo(frames, height_px, width_px, FPS, ms_per_frame))


def make_videos(rehearsal: Rehearsal) -> Videos:
    frames, height_px, width_px = rehearsal.shape
    if rehearsal.decode_ms_per_frame is not None:
        video = SimulatedVideo(frames, height_px, width_px, FPS, rehearsal.decode_ms_per_frame)
        return [write_simulated(video)], EXTENSION
    source_frames = frames * REAL_FPS // FPS + 1
    return [make_video(source_frames, REAL_FPS, *REAL_SIZE_PX, seed=seed) for seed in range(REAL_VIDEOS)], "mp4"
