"""The GPU lane: the same encoder on a CUDA device, near the CPU's numbers, and a replica that Ray pins to it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import MakeConfig, samples_of, write_tar

import encoder
from encoder.graphs import CudaCapture
from encoder.replica import OutOfMemoryError
from jobs.cli import main
from pipeline.store import Store
from pipeline.verify import Verified, verify

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 6e-2), ("float16", 1e-2)])
def test_cuda_gives_the_numbers_of_the_cpu(cuda: str, dtype: str, tolerance: float) -> None:
    video = torch.rand(1, 3, 17, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    there = encoder.load("tiny", weights="random:0", dtype=dtype, device=cuda)
    here = encoder.load("tiny", weights="random:0")
    mean = there.encode(video.to(there.device, there.dtype)).mean.cpu()
    expected = here.encode(video).mean
    assert (mean - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("way", ["winograd_height", "winograd", "auto"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 6e-2)])
def test_every_way_of_computing_convolutions_gives_the_numbers_of_the_cpu(
    cuda: str, way: str, dtype: str, tolerance: float
) -> None:
    video = torch.rand(1, 3, 13, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    there = encoder.load("cogvideox", weights="random:0", dtype=dtype, device=cuda, convolutions=way)
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", ["direct", "winograd_height", "winograd"])
def test_replayed_chunks_are_those_of_the_encoder_to_the_bit(cuda: str, dtype: str, way: str) -> None:
    options = {"weights": "random:0", "dtype": dtype, "device": cuda, "convolutions": way}
    plain, graphed = (encoder.load("cogvideox", **options, cuda_graphs=each) for each in (False, True))
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (25, *side, 3), np.uint8) for side in ((64, 96), (96, 64), (64, 96)) * 3]
    for clip in clips:
        video = plain.to_video(clip)
        ours, theirs = graphed.encode(video), plain.encode(video)
        assert torch.equal(ours.mean, theirs.mean)
        assert torch.equal(ours.logvar, theirs.logvar)
    assert len(graphed.engine._graphs) == 4  # type: ignore[attr-defined]
    same = [clip for clip in clips if clip.shape[1] == 64][:3]
    streams, means = [graphed.stream(25) for _ in same], [[], [], []]
    for start, stop in ((0, 9), (9, 17), (17, 25)):
        for clip, stream, mean in zip(same, streams, means, strict=True):
            posterior = stream.push(graphed.to_video(clip[start:stop]))
            assert posterior is not None
            mean.append(posterior.mean)
    for clip, mean in zip(same, means, strict=True):
        assert torch.equal(torch.cat(mean, 2), plain.encode(plain.to_video(clip)).mean)


def test_a_recording_without_memory_leaves_the_next_one_as_it_is(cuda: str) -> None:
    capture, there = CudaCapture(torch.device(cuda)), torch.zeros(4, device=cuda)
    with pytest.raises(OutOfMemoryError):
        capture(lambda: torch.empty(1 << 50, dtype=torch.uint8, device=cuda).zero_())
    replay = capture(lambda: there.add_(torch.ones(4, device=cuda)))
    for _ in range(3):
        replay()
    assert there.tolist() == [3, 3, 3, 3]


@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_compiled_norms_give_the_numbers_of_plain_ones(cuda: str, dtype: str, tolerance: float) -> None:
    options = {"weights": "random:0", "dtype": dtype, "device": cuda, "convolutions": "direct"}
    plain = encoder.load("tiny", **options)
    compiled = encoder.load("tiny", **options, compile=True, cuda_graphs=True)
    video = torch.rand(1, 3, 17, 64, 96, device=cuda) * 2 - 1
    expected = plain.encode(video.to(plain.dtype)).mean
    means = [compiled.encode(video.to(plain.dtype)).mean for _ in range(4)]
    assert (means[0] - expected).norm() <= tolerance * expected.norm()
    assert all(torch.equal(mean, means[0]) for mean in means[1:])


@pytest.mark.ray
def test_a_run_uses_the_gpu(cuda: str, make_config: MakeConfig, tmp_path: Path, videos: tuple[bytes, ...]) -> None:
    write_tar(tmp_path / "a.tar", samples_of(videos[:4]))
    config = make_config()
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert main(["run", str(tmp_path / "c.yaml")]) == 0
    seen = Verified()
    assert list(verify(Store(config.output.path), seen)) == []
    assert seen.rows == 4
