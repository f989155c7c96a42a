"""One encoder on one device: streams, precision, what it says of itself, and how it refuses."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

import encoder
from encoder.video_encoder import Posterior, VideoEncoder


@pytest.fixture(scope="module")
def tiny() -> VideoEncoder:
    return encoder.load("tiny", weights="random:0")


def video(frames: int, height_px: int = 16, width_px: int = 24, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, height_px, width_px, generator=torch.Generator().manual_seed(frames)) * 2 - 1


@pytest.fixture(scope="module")
def whole(tiny: VideoEncoder) -> Posterior:
    return tiny.encode(video(21, batch=2))


@pytest.mark.parametrize("portions", [[21], [1] * 21, [9, 8, 4], [2, 3, 16], [20, 1], [13, 8]])
def test_a_stream_gives_the_same_bits_however_its_frames_are_pushed(
    tiny: VideoEncoder, whole: Posterior, portions: list[int]
) -> None:
    clip = video(21, batch=2)
    stream = tiny.stream(21)
    parts = [stream.push(portion) for portion in clip.split(portions, 2)]
    stream.finish()
    complete = [part for part in parts if part is not None]
    assert torch.equal(torch.cat([part.mean for part in complete], 2), whole.mean)
    assert torch.equal(torch.cat([part.logvar for part in complete], 2), whole.logvar)


def test_latents_come_as_soon_as_their_chunk_is_whole(tiny: VideoEncoder) -> None:
    stream = tiny.stream(17)
    assert stream.push(video(8)) is None
    first = stream.push(video(1))
    assert first is not None
    assert first.mean.shape[2] == 3
    assert stream.push(video(7)) is None


def test_streams_of_one_encoder_do_not_touch_each_other(tiny: VideoEncoder) -> None:
    clips = [video(17), -video(17)]
    streams = [tiny.stream(17) for _ in clips]
    parts: list[list[Tensor]] = [[], []]
    for lo, hi in ((0, 9), (9, 17)):
        for stream, clip, part in zip(streams, clips, parts, strict=True):
            posterior = stream.push(clip[:, :, lo:hi])
            assert posterior is not None
            part.append(posterior.mean)
    for clip, part in zip(clips, parts, strict=True):
        assert torch.equal(torch.cat(part, 2), tiny.encode(clip).mean)


def test_a_stream_that_ends_early_says_how_many_frames_came(tiny: VideoEncoder) -> None:
    stream = tiny.stream(17)
    stream.push(video(10))
    with pytest.raises(ValueError, match="ended after 10 frames of 17"):
        stream.finish()


def test_a_stream_refuses_more_frames_than_it_was_opened_for(tiny: VideoEncoder) -> None:
    stream = tiny.stream(5)
    with pytest.raises(ValueError, match="6 frames pushed into a stream of 5"):
        stream.push(video(6))


def test_the_video_is_left_as_it_was(tiny: VideoEncoder) -> None:
    clip = video(17)
    before = clip.clone()
    tiny.encode(clip)
    assert torch.equal(clip, before)


@pytest.mark.slow
def test_latents_are_the_same_bits_for_every_number_of_threads(tiny: VideoEncoder) -> None:
    clip, usual, made = video(9, 104, 136), torch.get_num_threads(), {}
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            made[threads] = tiny.encode(clip)
    finally:
        torch.set_num_threads(usual)
    for threads, many in made.items():
        assert torch.equal(made[1].mean, many.mean), threads
        assert torch.equal(made[1].logvar, many.logvar), threads


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision_is_near_float32_and_answers_in_float32(
    tiny: VideoEncoder, dtype: str, tolerance: float
) -> None:
    clip = video(9)
    half = encoder.load("tiny", weights="random:0", dtype=dtype)
    exact, near = tiny.encode(clip).mean, half.encode(clip.to(half.dtype)).mean
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() / exact.abs().max() < tolerance
    assert half.weights_sha256 == tiny.weights_sha256


def test_frames_become_video_between_minus_one_and_one(tiny: VideoEncoder) -> None:
    frames = np.zeros((2, 8, 16, 3), np.uint8)
    frames[0, :, :, 0], frames[1, 0, 0, 2] = 255, 51
    frames.setflags(write=False)  # as Ray's object store gives them
    clip = tiny.to_video(frames)
    assert clip.shape == (1, 3, 2, 8, 16)
    assert clip[0, 0, 0].min() == 1.0
    assert clip[0, 1, 0].max() == -1.0
    assert clip[0, 2, 1, 0, 0].item() == pytest.approx(-0.6)
    assert tiny.encode(tiny.to_video(np.repeat(frames, 3, 0)[:5])).mean.shape[2] == 2


def test_clips_together_become_the_videos_that_each_becomes(tiny: VideoEncoder) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 16, 3), np.uint8)
    assert torch.equal(tiny.to_video(clips), torch.cat([tiny.to_video(clip) for clip in clips]))


@pytest.mark.parametrize("frames", [np.zeros((2, 8, 8, 3)), np.zeros((2, 3, 8, 8), np.uint8), np.zeros((8, 8, 3))])
def test_frames_of_another_kind_are_refused(tiny: VideoEncoder, frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="takes `t h w 3` or `b t h w 3` uint8"):
        tiny.to_video(frames)


def test_video_that_is_not_floats_is_refused_with_the_way_to_make_it(tiny: VideoEncoder) -> None:
    with pytest.raises(ValueError, match="to_video makes them"):
        tiny.encode(torch.zeros(1, 3, 5, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="got \\(3, 5, 16, 16\\)"):
        tiny.encode(torch.zeros(3, 5, 16, 16))


def test_a_picture_of_an_illegal_size_is_refused_with_the_rule(tiny: VideoEncoder) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        tiny.encode(video(5, 20, 24))


def test_the_identity_is_plain_json_and_names_all_that_changes_a_latent(tiny: VideoEncoder) -> None:
    assert json.loads(json.dumps(tiny.identity)) == tiny.identity
    changes = [{"weights": "random:1"}, {"dtype": "bfloat16"}, {"chunk_frames": 16}, {"norm_scope": "frame"}]
    others = [encoder.load("tiny", **({"weights": "random:0"} | change)).identity for change in changes]
    assert all(other != tiny.identity for other in others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "tinny"}, "did you mean tiny"),
        ({"dtype": "float64"}, "dtype is 'float64', but it must be one of: float32, bfloat16, float16"),
        ({"norm_scope": "video"}, "norm_scope is 'video', but it must be one of"),
        ({"chunk_frames": 6}, "multiple of the encoder's temporal ratio"),
        ({"device": "gpu0"}, "unknown device 'gpu0'"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_can(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.load(**({"name": "tiny", "weights": "random:0"} | options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch finds no CUDA device .* or use cpu"):
        encoder.load("tiny", weights="random:0", device="cuda")
