"""A stream that begins early enough before a latent gives its bits, and one that begins a latent later does not."""

from functools import cache, partial
from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.encoders import ENCODERS
from torch import Tensor

import encoder
from encoder.models import cogvideox, wan
from encoder.streaming.chunks import chunk_plan
from encoder.streaming.layer_fields import receptive_field_of
from encoder.streaming.receptive_field import plan_from
from encoder.video_encoder import VideoEncoder

FRAMES = 133


def latents_from(loaded: VideoEncoder, video: Tensor, begin: int) -> Tensor:
    """The latents of the frames from `begin` on, whose chunks end where those of the whole video do."""
    plan = plan_from(begin, video.shape[2], loaded.plan(video.shape[2]))
    stream = loaded.stream(sum(plan), plan)
    parts = [stream.push(chunk) for chunk in video[:, :, begin:].split(list(plan), 2)]
    return torch.cat([part.mean for part in parts if part is not None], 2)


@pytest.mark.slow
@pytest.mark.usefixtures("small_wan")
@pytest.mark.parametrize(("name", "options"), ENCODERS)
def test_the_latest_begin_gives_the_bits_of_one_stream_and_a_later_one_does_not(
    name: str, options: dict[str, Any]
) -> None:
    loaded = encoder.load(name, weights="random:0", **options)
    video = torch.rand(1, 3, FRAMES, 8, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, latents = loaded.encode(video).mean, cache(partial(latents_from, loaded, video))
    assert loaded.receptive_field is not None
    for latent in (30, 31):  # each other one begins a chunk of 8 frames
        begin = loaded.receptive_field.begin(4 * latent, loaded.plan(FRAMES))
        assert begin > 0
        late, later = latents(begin), latents(begin + 4)
        expected = mean[:, :, latent:]
        assert torch.equal(late[:, :, latent - begin // 4 :], expected)
        assert not torch.equal(later[:, :, latent - begin // 4 - 1 :], expected)


@pytest.mark.parametrize(
    ("module", "scope", "chunk_frames", "rule", "warm_up_frames"),
    [
        (lambda: cogvideox.Encoder(cogvideox.PRESETS["cogvideox"], "frame"), "frame", 4, "causal", 180),
        (lambda: cogvideox.Encoder(cogvideox.PRESETS["cogvideox"], "chunk"), "chunk", 8, "diffusers", 244),
        (lambda: wan.WanEncoder(wan.PRESETS["wan"]), "pixel", 4, "causal", 112),
    ],
    ids=["cogvideox frame", "cogvideox chunk", "wan"],
)
def test_how_far_back_the_published_sizes_look(
    module: Any, scope: str, chunk_frames: int, rule: str, warm_up_frames: int
) -> None:
    identity = {"temporal_ratio": 4, "norm_scope": scope, "chunk_frames": chunk_frames, "chunk_plan": rule}
    with torch.device("meta"):
        field = receptive_field_of(module(), identity)
    assert 800 - field.begin(800, field.plan(1001)) == warm_up_frames
    assert field.warm_up_frames == max(797 - field.begin(800, field.plan(length)) for length in range(897, 1001, 4))


def test_an_encoder_that_must_see_a_clip_whole_has_no_receptive_field() -> None:
    assert encoder.load("tiny", weights="random:0", norm_scope="clip").receptive_field is None


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.sampled_from([4, 8, 12]))
def test_a_later_stream_has_its_chunks_end_where_the_whole_one_does(
    begin_step: int, more_steps: int, rest_steps: int, chunk_frames: int
) -> None:
    begin, end = 4 * begin_step, 4 * (begin_step + more_steps) + 1
    plan = chunk_plan(end + 4 * rest_steps, chunk_frames)
    part = plan_from(begin, end, plan)
    ends = list(accumulate(plan))
    assert set(accumulate(part, initial=begin)) - {begin} <= set(ends)
    assert part[0] % 4 == 1
    assert begin + sum(part) == min(stop for stop in ends if stop >= end)


def test_a_plan_that_is_none_of_the_clip_is_refused() -> None:
    tiny = encoder.load("tiny", weights="random:0")
    for plan in ((9, 4), (10, 7), (17, 4)):
        with pytest.raises(ValueError, match="not a plan of a clip of 17"):
            tiny.stream(17, plan)
