"""Where to begin decoding so that frames deep in a video come without all that is before them: pure functions.

pyav_pictures.py decodes what is planned here, and checks packet by packet that it reads what the plan is about.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.records import VideoHeader
from pipeline.video.packets import Packets

CODECS = ("h264", "hevc", "av1", "vp9", "mpeg4")  # whose key frames let a decoder forget all before them
LEAST_SAVED_FRAMES = 32  # below it reading on is as cheap as another seek
CHECKED_FRAMES = 64  # of a group of pictures that is decoded both ways, at the most


@dataclass(frozen=True, slots=True)
class Key:
    """A key frame: its place among the packets, and its index among the frames shown."""

    packet: int
    index: int


@dataclass(frozen=True, slots=True)
class Read:
    """Frames that are decoded in one go, from a key frame to the frame `last`."""

    key: Key
    last: int

    @property
    def frames(self) -> int:
        return self.last - self.key.index + 1


@dataclass(frozen=True, slots=True)
class SeekPlan:
    """What is read instead of everything up to the last frame, and what is read both ways to see that it is equal."""

    reads: tuple[Read, ...]
    check: Read


def plan_seeks(header: VideoHeader, packets: Packets, needed: bytearray) -> SeekPlan | None:
    """How to reach the needed frames by key frames; None where that is not safe, or saves too little."""
    keys = usable_keys(header, packets)
    if len(keys) < 2:
        return None
    wanted = np.flatnonzero(np.frombuffer(needed, np.uint8)).tolist()
    reads = plan_reads(keys, wanted)
    check = _check(keys, header.frames)
    cost_frames = sum(read.frames for read in reads) + check.last + 1 + check.frames
    return SeekPlan(reads, check) if wanted[-1] + 1 - cost_frames >= LEAST_SAVED_FRAMES else None


def usable_keys(header: VideoHeader, packets: Packets) -> list[Key]:
    """The key frames after which every frame shown later is decoded, too; none where times do not tell frames apart."""
    marks, pts = (np.frombuffer(values, np.int64) for values in (packets.marks, packets.pts))
    is_exact = header.start_seconds is not None and len(marks) == len(pts) and bool((np.diff(marks) > 0).all())
    if header.codec not in CODECS or not is_exact:
        return []
    latest = np.maximum.accumulate(pts)
    clean = [at for at in packets.keys if at == 0 or latest[at - 1] < pts[at]]
    return [Key(at, int(np.searchsorted(marks, pts[at]))) for at in clean]


def plan_reads(keys: Sequence[Key], wanted: Sequence[int]) -> tuple[Read, ...]:
    """The reads that reach all wanted frames (ascending), each from the last key frame before the first of them."""
    reads: list[Read] = []
    starts = [key.index for key in keys]
    for index in wanted:
        key = keys[max(0, bisect_right(starts, index) - 1)]
        if reads and key.index - reads[-1].last < LEAST_SAVED_FRAMES:
            reads[-1] = Read(reads[-1].key, index)
        else:
            reads.append(Read(key, index))
    return tuple(reads)


def _check(keys: Sequence[Key], frames: int) -> Read:
    """The group of pictures, but the first, that costs least to decode both from the video's start and by a seek."""
    ends = [key.index - 1 for key in keys[2:]] + [frames - 1]
    groups = [Read(key, min(end, key.index + CHECKED_FRAMES - 1)) for key, end in zip(keys[1:], ends, strict=True)]
    return min(groups, key=lambda group: group.last + group.frames)
