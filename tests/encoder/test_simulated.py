"""The simulated encoder is an encoder like others, whose latents come when its device has served their frames."""

from typing import Any

import numpy as np
import pytest
import torch

import encoder
from encoder import spec_of
from encoder.device.simulated import Clock
from encoder.loading import Options
from encoder.simulated import PendingTensor, SimulatedEncoder, load_simulated
from encoder.video_encoder import VideoEncoder, joined

OPTIONS: dict[str, Any] = {
    "dtype": "bfloat16",
    "device": "auto",
    "chunk_frames": 8,
    "norm_scope": "chunk",
    "chunk_plan": "diffusers",
    "tiles": None,
}


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def simulated(time: Time, ms_per_frame: float = 500) -> SimulatedEncoder:
    return load_simulated(f"simulated:{ms_per_frame}", Options(**OPTIONS), Clock(lambda: time.now, time.sleep))


def frames(count: int, height_px: int = 32, width_px: int = 48) -> np.ndarray:
    return np.zeros((count, height_px, width_px, 3), np.uint8)


def test_it_is_loaded_as_others_are_and_says_what_it_is() -> None:
    loaded = encoder.load("simulated", weights="simulated:4", device="auto")
    other = encoder.load("simulated", weights="simulated:0.5")
    assert isinstance(loaded, VideoEncoder)
    assert loaded.identity["simulated"] is True
    assert loaded.identity == other.identity
    assert loaded.weights_sha256 == other.weights_sha256
    assert loaded.spec == spec_of("simulated")
    assert loaded.plan(49) == (9, 8, 8, 8, 8, 8)
    described = (loaded.streams, loaded.receptive_field, loaded.device_name, loaded.tunable)
    assert described == (True, None, "simulated", ())
    assert loaded.encode_bytes(49, 480, 720) > 0


def test_latents_have_the_shape_of_their_clip_and_the_same_values_each_time() -> None:
    clips = [simulated(Time()).encode(torch.zeros(1, 3, 17, 32, 48)) for _ in range(2)]
    first, second = (posterior.mean.cpu().numpy() for posterior in clips)
    assert first.shape == (1, *spec_of("simulated").latent_shape(17, 32, 48))
    assert first.dtype == np.float32
    assert np.array_equal(first, second)
    assert first.std() == pytest.approx(1, abs=0.1)
    assert len(np.unique(first)) > first.size / 2


def test_pushing_returns_at_once_and_fetching_waits_for_the_last_chunk() -> None:
    time = Time()
    loaded = simulated(time)
    stream = loaded.stream(17)
    parts = [stream.push(loaded.to_video(frames(count))) for count in (9, 8)]
    posterior = joined([part for part in parts if part is not None])
    latent = posterior.mean[0, :, 1:].float()
    assert time.now == 0
    latent.cpu()
    assert time.now == 17 * 0.5


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: x.tolist(),
        lambda x: x.sum().item(),
        lambda x: bool(x.isfinite().all()),
        lambda x: torch.empty(x.shape).copy_(x),
        lambda x: x.split(1)[0].cpu(),
    ],
)
def test_whatever_brings_values_to_the_host_waits(read: Any) -> None:
    time = Time()
    latent = simulated(time).encode(torch.zeros(1, 3, 9, 32, 48)).mean
    read(latent)
    assert time.now == 4.5


def test_what_was_fetched_is_an_ordinary_tensor_of_its_own() -> None:
    latent = simulated(Time()).encode(torch.zeros(1, 3, 1, 32, 48)).mean
    fetched = latent.cpu()
    assert type(latent) is PendingTensor
    assert type(fetched) is torch.Tensor
    fetched.zero_()
    assert latent.cpu().abs().sum() > 0


def test_only_the_chunks_own_time_is_waited_for_where_more_are_queued() -> None:
    time = Time()
    loaded = simulated(time)
    first, second = (loaded.encode(torch.zeros(1, 3, 9, 32, 48)) for _ in range(2))
    first.mean.cpu()
    assert (time.now, loaded.device_busy_seconds) == (4.5, 4.5)
    second.mean.cpu()
    assert (time.now, loaded.device_busy_seconds) == (9.0, 9.0)


def test_uploads_copy_frames_and_hold_no_floats() -> None:
    loaded = simulated(Time())
    video = loaded.to_video(frames(9))
    assert (video.shape, video.dtype, video.device.type) == ((1, 3, 9, 32, 48), torch.bfloat16, "meta")
    assert max(buffer.numel() for buffer in loaded._upload._buffers) == 9 * 32 * 48 * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "weights", ["random:0", "simulated", "simulated:", "simulated:fast", "simulated:-1", "simulated:inf"]
)
def test_other_weights_are_refused(weights: str) -> None:
    with pytest.raises(ValueError, match="write simulated:MS_PER_FRAME"):
        encoder.load("simulated", weights=weights)


def test_illegal_clips_and_tiles_are_refused_as_by_others() -> None:
    with pytest.raises(ValueError, match="cannot encode 8 frames"):
        simulated(Time()).encode(torch.zeros(1, 3, 8, 32, 48))
    with pytest.raises(ValueError, match="leave it out"):
        encoder.load("simulated", weights="simulated:1", tiles=(32, 32, 24, 24))
