"""What encoding holds in memory: flat in a stream, as estimated where a clip must be whole. Linux tells the peak."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import encoder
from encoder import video_encoder
from encoder.device import memory
from encoder.video_encoder import ClipMemoryError, VideoEncoder

PEAK = """
import json, sys, torch, encoder

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

name, scope, counts, height_px, width_px = json.loads(sys.argv[1])
torch.set_num_threads(1)
loaded = encoder.load(name, weights="random:0", norm_scope=scope, convolutions="direct")
loaded.encode(torch.zeros(1, 3, 5, 8, 8))
chunk = torch.rand(1, 3, 8, height_px, width_px)
before, peaks = status("VmRSS"), []
for frames in counts:
    open("/proc/self/clear_refs", "w").write("5")  # resets the peak
    stream = loaded.stream(frames)
    for start in range(0, frames, 8):
        stream.push(chunk[:, :, : frames - start])
    stream.finish()
    peaks.append(status("VmHWM") - before)
print(json.dumps([peaks, None if loaded.streams else loaded.encode_bytes(counts[-1], height_px, width_px)]))
"""


def peak_bytes(name: str, scope: str, counts: list[int]) -> tuple[list[int], int]:
    """Peaks of memory above the loaded encoder in a fresh process, one for each frame count.

    Where a clip is encoded whole, the estimate for the last one too.
    """
    arguments = json.dumps([name, scope, counts, 32, 48])
    done = subprocess.run(
        [sys.executable, "-c", PEAK, arguments],
        env={"MALLOC_MMAP_THRESHOLD_": "65536", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peaks, estimate = json.loads(done.stdout)
    return peaks, estimate


@cache
def tiny(norm_scope: str, **options: Any) -> VideoEncoder:
    return encoder.load("tiny", weights="random:0", norm_scope=norm_scope, **options)


linux_only = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc"
)


@pytest.mark.slow
@linux_only
def test_a_stream_takes_the_same_memory_for_clips_of_every_length() -> None:
    (short, middle, long), _ = peak_bytes("tiny", "chunk", [25, 97, 385])
    assert short * 0.9 < middle < short * 1.1
    assert short * 0.9 < long < short * 1.1


@linux_only
@pytest.mark.full_size
def test_a_clip_that_is_encoded_whole_takes_about_the_memory_that_was_computed() -> None:
    (peak,), estimate = peak_bytes("cogvideox", "clip", [13])
    assert 0.8 * estimate < peak < 1.25 * estimate


def test_a_clip_too_large_for_the_memory_is_refused_with_needed_and_available(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny("clip")
    monkeypatch.setattr(video_encoder, "available_bytes", lambda device: 10**8)
    with pytest.raises(ClipMemoryError, match=r"needs 2\.\d GB, and cpu has 100\.0 MB: use fewer frames"):
        whole.stream(13).push(torch.zeros(1, 3, 1, 720, 1080))
    assert whole.stream(5).push(torch.zeros(1, 3, 5, 16, 16)) is not None


@pytest.mark.slow
def test_computed_memory_grows_with_the_clip_where_it_is_whole_and_not_where_it_streams() -> None:
    whole, streaming = tiny("clip"), tiny("chunk")
    assert not whole.streams
    assert streaming.streams
    assert whole.encode_bytes(33, 32, 48) > 1.5 * whole.encode_bytes(17, 32, 48)
    assert streaming.encode_bytes(33, 32, 48) == streaming.encode_bytes(17, 32, 48)


def test_two_whole_activations_and_a_chunk_are_alive_in_scope_clip() -> None:
    whole = tiny("clip")
    activation = 16 * 33 * 32 * 48 * 4
    assert 2 * activation < whole.encode_bytes(33, 32, 48) < 3 * activation


@pytest.mark.slow
def test_tiles_and_half_precision_take_less_memory() -> None:
    whole, tiled, half = tiny("clip"), tiny("clip", tiles=(16, 24, 16, 24)), tiny("clip", dtype="bfloat16")
    assert tiled.encode_bytes(5, 32, 48) < 0.5 * whole.encode_bytes(5, 32, 48)
    assert half.encode_bytes(5, 32, 48) < 0.7 * whole.encode_bytes(5, 32, 48)


def test_the_memory_available_is_that_of_the_container_where_it_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = memory.available_bytes(torch.device("cpu"))
    assert free > 10**8
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes(torch.device("cpu")) > 10**8
    (tmp_path / "memory.max").write_text("50000000\n")
    (tmp_path / "memory.current").write_text("20000000\n")
    assert memory.available_bytes(torch.device("cpu")) == 30_000_000


def test_sizes_are_readable() -> None:
    assert memory.readable(17_940_000_000) == "17.9 GB"
    assert memory.readable(12_340_000) == "12.3 MB"
