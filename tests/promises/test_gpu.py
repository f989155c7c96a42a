"""On a GPU: the same encoder on a CUDA device, near the CPU's numbers, and a replica that Ray pins to it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.runs import MakeConfig, samples_of, write_tar

import encoder
from jobs.cli import main
from pipeline.audit.verify import Verified, verify
from pipeline.storage.store import Store

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 6e-2), ("float16", 1e-2)])
def test_cuda_gives_the_numbers_of_the_cpu(cuda: str, dtype: str, tolerance: float) -> None:
    video = torch.rand(1, 3, 17, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    there = encoder.load("tiny", weights="random:0", dtype=dtype, device=cuda)
    here = encoder.load("tiny", weights="random:0")
    mean = there.encode(video.to(there.device, there.dtype)).mean.cpu()
    expected = here.encode(video).mean
    assert (mean - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("convolutions", ["winograd_height", "winograd", "auto"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 6e-2)])
def test_every_way_of_computing_convolutions_gives_the_numbers_of_the_cpu(
    cuda: str, convolutions: str, dtype: str, tolerance: float
) -> None:
    video = torch.rand(1, 3, 13, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    there = encoder.load("cogvideox", weights="random:0", dtype=dtype, device=cuda, convolutions=convolutions)
    here = encoder.load("cogvideox", weights="random:0", convolutions="direct")
    mean, expected = there.encode(video.to(there.device, there.dtype)).mean.cpu(), here.encode(video).mean
    assert (mean - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frames_arrive_as_they_are_while_others_are_encoded(cuda: str, dtype: str) -> None:
    there = encoder.load("tiny", weights="random:0", dtype=dtype, device=cuda)
    rng, busy = np.random.default_rng(0), torch.zeros(4096, 4096, device=cuda)
    sent = [rng.integers(0, 256, (8 + seed % 3, 240, 320, 3), np.uint8) for seed in range(12)]
    arrived = []
    for frames in sent:
        for _ in range(20):
            busy @ busy
        arrived.append(there.to_video(frames))
    for frames, video in zip(sent, arrived, strict=True):
        expected = torch.from_numpy(frames)[None].to(cuda).float().div_(127.5).sub_(1).to(there.dtype)
        assert torch.equal(video, expected.permute(0, 4, 1, 2, 3))


@pytest.mark.parametrize("convolutions", ["direct", "winograd_height", "winograd"])
def test_nothing_inside_a_clip_waits_for_the_device(cuda: str, convolutions: str) -> None:
    there = encoder.load("cogvideox", weights="random:0", device=cuda, convolutions=convolutions)
    frames = np.zeros((9, 64, 96, 3), np.uint8)
    there.encode(there.to_video(frames))  # the first call sets things up
    stream = there.stream(25)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for count in (9, 8, 8):
            stream.push(there.to_video(frames[:count]))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_on_the_device_does_not_grow_with_the_clip(cuda: str) -> None:
    loaded = encoder.load("tiny", weights="random:0", device=cuda)
    peaks = []
    for chunks in (6, 24):
        torch.cuda.reset_peak_memory_stats()
        stream = loaded.stream(1 + 8 * chunks)
        for frames in (9, *[8] * (chunks - 1)):
            stream.push(torch.zeros(1, 3, frames, 128, 192, device=cuda))
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] <= 1.1 * peaks[0]


@pytest.mark.ray
def test_a_run_uses_the_gpu(cuda: str, make_config: MakeConfig, tmp_path: Path, videos: tuple[bytes, ...]) -> None:
    write_tar(tmp_path / "a.tar", samples_of(videos[:4]))
    config = make_config()
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert main(["run", str(tmp_path / "c.yaml")]) == 0
    seen = Verified()
    assert list(verify(Store(config.output.path), seen)) == []
    assert seen.rows == 4
