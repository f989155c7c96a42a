"""Simulated videos: a few bytes of JSON whose decoding takes the time that they name and gives real arrays.

Only runs with the simulated encoder read them (decode.py); for all others they are no videos.
"""

import json
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from pipeline.records import Uint8Frames, VideoHeader

SIGNATURE = b"latentmill simulated video\n"
EXTENSION = "simulated"  # of their files


@dataclass(frozen=True, slots=True)
class SimulatedVideo:
    """A video of noise that takes `ms_per_frame` of a sleeping process for each frame that is wanted."""

    frames: int
    height_px: int
    width_px: int
    fps: float
    ms_per_frame: float

    @property
    def header(self) -> VideoHeader:
        times = array("d", (number / self.fps for number in range(self.frames)))
        return VideoHeader(
            container="simulated",
            codec="noise",
            width_px=self.width_px,
            height_px=self.height_px,
            sample_aspect=1.0,
            rotation_degrees=0,
            pts_seconds=times,
            duration_seconds=self.frames / self.fps,
        )

    def pictures(self, needed: bytearray) -> Iterator[tuple[int, Uint8Frames] | None]:
        """The pictures `h w c` that are marked, each with its index; None for each other one."""
        picture = np.random.default_rng(0).integers(0, 256, (self.height_px, self.width_px, 3), np.uint8)
        for index in range(needed.rindex(1) + 1):
            if needed[index]:
                time.sleep(self.ms_per_frame / 1000)
            yield (index, picture) if needed[index] else None


def write_simulated(video: SimulatedVideo) -> bytes:
    """The bytes that `read_simulated` reads."""
    return SIGNATURE + json.dumps(asdict(video)).encode()


def read_simulated(data: bytes) -> SimulatedVideo | None:
    """The video of such bytes; None where they are other ones."""
    return SimulatedVideo(**json.loads(data.removeprefix(SIGNATURE))) if data.startswith(SIGNATURE) else None
