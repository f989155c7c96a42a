"""Mutated videos: whatever the bytes, decoding ends as clips or as a reject, or kills its own process, and never hangs.

No picture of a row is that of another time, judged by FFmpeg's own frames of the mutated file. What is wrong in silence
is counted and printed: frames that differ from those of the undamaged video although the decoder reported nothing.
LATENTMILL_FUZZ sets how many videos are tried.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.paths import ROOT, SHARED_VIDEOS
from support.times import misplaced_pictures

import encoder
from pipeline.clips.plan import ClipRules
from pipeline.config.latents import ClipConfig
from pipeline.config.load import parse_config
from pipeline.config.runtime import LimitsConfig
from pipeline.records import Chunk, Failure, Opened
from pipeline.video.decode import decode_sample
from pipeline.video.synthetic.videos import make_video

VIDEOS = int(os.environ.get("LATENTMILL_FUZZ", "16"))
HANG_SECONDS = 60
LARGEST_BYTES = 100_000  # of the shared videos: larger ones only take longer
MODES = ("default", "strict")
RULES = ClipRules(encoder.spec_of("tiny"), 8)
CRASHES = 0.01  # share of mutated videos that may kill a decoder: 1 of 1,000 was seen to
MADE = (
    {"container": "mp4"},
    {"container": "matroska", "options": {"g": "6", "bf": "2"}},
    {"container": "mpegts", "codec": "mpeg2video"},
    {"container": "avi", "codec": "mpeg4"},
    {"container": "webm", "codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
)


def originals() -> dict[str, bytes]:
    made = {f"made-{number}": make_video(24, 8, 192, 144, seed=number, **how) for number, how in enumerate(MADE)}
    shared = sorted((SHARED_VIDEOS / "good").iterdir()) if SHARED_VIDEOS.exists() else []
    return made | {path.name: path.read_bytes() for path in shared if path.stat().st_size <= LARGEST_BYTES}


def flip_bits(video: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 4, 32))):
        video[chance.randrange(len(video))] ^= 1 << chance.randrange(8)


def cut(video: bytearray, chance: random.Random) -> None:
    del video[chance.randrange(len(video)) :]


def splice(video: bytearray, chance: random.Random) -> None:
    """A stretch of the video is lost, comes twice, or stands elsewhere."""
    begin, end = sorted(chance.randrange(len(video)) for _ in range(2))
    to = chance.randrange(len(video))
    stretch = video[begin : min(end, begin + 20_000)]
    if chance.random() < 0.5:
        del video[begin : begin + len(stretch)]
    if chance.random() < 0.7:
        video[to:to] = stretch


def zero(video: bytearray, chance: random.Random) -> None:
    begin, size = chance.randrange(len(video)), chance.choice((1, 64, 4096))
    video[begin : begin + size] = bytes(min(size, len(video) - begin))


MUTATIONS = (flip_bits, cut, splice, zero)


def mutants(videos: dict[str, bytes], names: list[str], count: int) -> Iterator[tuple[str, str, bytes]]:
    """(original, mutation, bytes) of as many mutated videos, made of those with these names."""
    for number in range(count):
        chance = random.Random(number)
        name, mutate = chance.choice(names), MUTATIONS[number % len(MUTATIONS)]
        video = bytearray(videos[name])
        mutate(video, chance)
        yield name, mutate.__name__, bytes(video)


def decode(video: bytes, strict: bool) -> str:
    """The sha256 of the clip's times and pictures, why there is none, or `misplaced` where times are not true."""
    config = parse_config(
        {
            "input": {"shards": "none.tar"},
            "output": {"path": "out"},
            "clip": {"frames": "full", "fps": None, "buckets": ["32x48", "48x32"], "upscale": True},
            "encoder": {"name": "tiny", "weights": "random:0"},
        }
    )
    try:
        items = list(decode_sample(video, config.clip, config.limits, strict, RULES))
    except MemoryError:
        return "decode/memory_limit"  # as the task around it says: a header that asks FFmpeg for too much
    if isinstance(items[-1], Failure):
        return items[-1].why.code
    opened, *rest = items
    assert isinstance(opened, Opened)
    chunks = [item for item in rest if isinstance(item, Chunk)]
    if misplaced_pictures(video, opened, chunks):
        return "misplaced"
    frames = [chunk.frames for chunk in chunks]
    assert [len(some) for some in frames] == [count for spec in opened.clips for count in spec.chunk_frames]
    digest = hashlib.sha256(
        repr([[opened.header.pts_seconds[index] for index in spec.frame_indices] for spec in opened.clips]).encode()
    )
    for some in frames:
        digest.update(some.tobytes())
    return digest.hexdigest()


def work(jobs: list[str]) -> None:
    """In a process of its own: says before each `MODE:PATH` that it begins, and after it how it ended."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a decoder that hangs hears nothing else
    for job in jobs:
        mode, _, path = job.partition(":")
        print(json.dumps(job), flush=True)
        signal.alarm(HANG_SECONDS)
        print(json.dumps(decode(Path(path).read_bytes(), mode == "strict")), flush=True)


def outcomes(jobs: list[str]) -> Iterator[tuple[str, str]]:
    """(`MODE:PATH`, outcome); of one in which the process died the outcome is `hang` or `crash`."""
    while jobs:
        command = [sys.executable, str(Path(__file__)), *jobs]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        yield from zip(lines[::2], lines[1::2], strict=False)
        if not done.returncode:
            return
        assert done.returncode < 0, f"{lines[-1]}: {done.stderr}"
        yield lines[-1], "hang" if done.returncode == -signal.SIGALRM else "crash"
        jobs = jobs[jobs.index(lines[-1]) + 1 :]


def is_row(outcome: str) -> bool:
    return len(outcome) == 64


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_mutated_video_is_a_row_or_a_reject(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    undamaged = originals()
    clean = rows_of(undamaged)
    assert len(clean) >= len(MADE)
    tried = {f"{number:05d}": mutant for number, mutant in enumerate(mutants(undamaged, sorted(clean), VIDEOS))}
    found = decoded({number: video for number, (_, _, video) in tried.items()}, tmp_path)
    counts: dict[str, Counter[str]] = {mode: Counter() for mode in MODES}
    silent: Counter[str] = Counter()
    for number, (name, mutation, _) in tried.items():
        for mode in MODES:
            kind = kind_of(found[number][mode], clean[name][mode])
            counts[mode][kind] += 1
            silent[f"{name}, {mutation}"] += mode == "strict" and kind == "row, different"
    with capsys.disabled():
        print("\n" + json.dumps({"videos": VIDEOS, "originals": len(clean), **counts, "silent in strict": +silent}))
    for mode in MODES:
        assert not counts[mode]["hang"]
        assert not counts[mode]["misplaced"], [number for number in found if "misplaced" in found[number].values()]
        assert counts[mode]["crash"] <= VIDEOS * CRASHES, "each costs its own sample, in a process of its own"
        assert counts[mode]["row, the same"]
        assert counts[mode]["reject"]
    assert counts["strict"]["row, different"] <= counts["default"]["row, different"]


def test_pictures_that_are_one_frame_late_are_found() -> None:
    video = make_video(24, 8, 192, 144)
    items = list(
        decode_sample(video, ClipConfig(frames=17, fps=None, buckets=("96x128",)), LimitsConfig(), True, RULES)
    )
    opened, chunks = items[0], [item for item in items if isinstance(item, Chunk)]
    assert isinstance(opened, Opened)
    assert misplaced_pictures(video, opened, chunks) == 0
    assert opened.header.start_seconds is not None
    late = replace(opened, header=replace(opened.header, start_seconds=opened.header.start_seconds + 1 / 8))
    assert misplaced_pictures(video, late, chunks) == 17


def rows_of(videos: dict[str, bytes]) -> dict[str, dict[str, str]]:
    """By mode, the row of each undamaged video that is one in every mode; some are too short."""
    both = {name: {mode: decode(video, mode == "strict") for mode in MODES} for name, video in videos.items()}
    assert not [name for name, found in both.items() if "misplaced" in found.values()]
    return {name: found for name, found in both.items() if all(is_row(found[mode]) for mode in MODES)}


def decoded(videos: dict[str, bytes], folder: Path) -> dict[str, dict[str, str]]:
    """By name and mode, how each video ended."""
    for name, video in videos.items():
        (folder / name).write_bytes(video)
    found: dict[str, dict[str, str]] = {name: {} for name in videos}
    for job, outcome in outcomes([f"{mode}:{folder / name}" for name in videos for mode in MODES]):
        mode, _, path = job.partition(":")
        found[Path(path).name][mode] = outcome
    return found


def kind_of(outcome: str, expected: str) -> str:
    if is_row(outcome):
        return "row, the same" if outcome == expected else "row, different"
    return outcome if outcome in ("hang", "crash", "misplaced") else "reject"


if __name__ == "__main__":
    work(sys.argv[1:])
