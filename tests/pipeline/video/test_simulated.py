"""Simulated videos give real arrays, to runs with the simulated encoder and to nobody else."""

import subprocess
import sys

import numpy as np
import pytest
from support.paths import ROOT

from encoder import spec_of
from pipeline.clips.plan import ClipRules
from pipeline.config.latents import ClipConfig
from pipeline.config.runtime import LimitsConfig
from pipeline.records import Chunk, DecodeItem, Failure, Opened
from pipeline.video import simulated
from pipeline.video.decode import decode_sample
from pipeline.video.simulated import SimulatedVideo, read_simulated, write_simulated

VIDEO = SimulatedVideo(frames=40, height_px=32, width_px=48, fps=16, ms_per_frame=18)
CLIP = ClipConfig(frames=17, fps=8, buckets=("32x48",))


def decode(encoder: str) -> list[DecodeItem]:
    rules = ClipRules(spec_of(encoder), 8)
    items = decode_sample(write_simulated(VIDEO), CLIP, LimitsConfig(), False, rules)
    return [item for item in items if item is not None]


def test_its_bytes_say_all_of_it() -> None:
    assert read_simulated(write_simulated(VIDEO)) == VIDEO
    assert read_simulated(b"\0\0\0\x20ftypisom") is None


def test_it_gives_the_chunks_of_a_clip_and_sleeps_for_each_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(simulated.time, "sleep", slept.append)
    opened, *chunks = decode("simulated")
    assert isinstance(opened, Opened)
    assert (opened.header.frames, opened.header.mean_fps) == (40, pytest.approx(16))
    frames = [chunk.frames for chunk in chunks if isinstance(chunk, Chunk)]
    assert [part.shape for part in frames] == [(17, 32, 48, 3)]
    assert all(part.dtype == np.uint8 and part.std() > 50 for part in frames)
    assert slept == [pytest.approx(0.018)] * 17


def test_to_other_encoders_it_is_no_video() -> None:
    (failure,) = decode("tiny")
    assert isinstance(failure, Failure)
    assert (failure.why.stage, failure.why.reason) == ("probe", "not_a_video")


@pytest.mark.slow
def test_a_decoder_of_simulated_videos_of_their_buckets_size_loads_no_torch() -> None:
    program = """
import sys
from encoder import spec_of
from pipeline.clips.plan import ClipRules
from pipeline.cluster.decoder import _decode
from pipeline.config.load import parse_config
from pipeline.video.simulated import SimulatedVideo, write_simulated
encoder = {"name": "simulated", "weights": "simulated:1"}
clip = {"frames": 5, "fps": 8, "buckets": ["32x48"]}
config = parse_config({"input": {"shards": "x"}, "output": {"path": "x"}, "clip": clip, "encoder": encoder})
video = write_simulated(SimulatedVideo(5, 32, 48, 8.0, 0.0))
print(*(type(item).__name__ for item in _decode(video, config, ClipRules(spec_of("simulated"), 8))))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    items, has_torch = done.stdout.splitlines()
    assert "Chunk" in items
    assert has_torch == "False"
