"""Norm scopes: what a clip's latents depend on, and what they do not."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.encoders import unchecked_memory
from support.runs import LoadFullSize
from torch import Tensor

import encoder
from encoder.models.cogvideox import CogVideoXParams, Encoder
from encoder.streaming.whole_clip import encode_clip
from encoder.video_encoder import Posterior, VideoEncoder
from encoder.weights import assign, random_weights

few = settings(max_examples=8, deadline=None)
legal_frames = st.integers(0, 8).map(lambda steps: 1 + 4 * steps)


@cache
def tiny(norm_scope: str, chunk_frames: int = 8, dtype: str = "float32", chunk_plan: str = "diffusers") -> VideoEncoder:
    return encoder.load(
        "tiny",
        weights="random:0",
        norm_scope=norm_scope,
        chunk_frames=chunk_frames,
        dtype=dtype,
        chunk_plan=chunk_plan,
    )


def video(frames: int, height_px: int = 8, width_px: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, frames, height_px, width_px, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@cache
def whole(norm_scope: str, chunk_frames: int = 8) -> Posterior:
    """What such an encoder makes of `video(29)`."""
    return tiny(norm_scope, chunk_frames).encode(video(29))


def far(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def untiled(loaded: VideoEncoder, clip: Tensor) -> Tensor:
    """Moments of the clip in one chunk, whose norms so see all of it."""
    with torch.inference_mode():
        moments: Tensor = loaded.engine.model(clip, None)[0]  # type: ignore[attr-defined]
    return moments


@pytest.mark.slow
@few
@given(frames=legal_frames, chunk_frames=st.sampled_from([4, 8, 12, 32]), seed=st.integers(0, 9))
@unchecked_memory()
def test_scope_clip_equals_the_encoder_that_sees_the_whole_clip_at_once(
    frames: int, chunk_frames: int, seed: int
) -> None:
    clip = video(frames, seed=seed)
    posterior = tiny("clip", chunk_frames).encode(clip)
    assert far(torch.cat([posterior.mean, posterior.logvar], 1), untiled(tiny("chunk"), clip)) < 1e-5


@unchecked_memory()
def test_scope_clip_of_the_full_size_encoder_equals_the_encoder_that_sees_the_whole_clip_at_once(
    full_size: LoadFullSize,
) -> None:
    clip = video(13, 8, 24)
    posterior = full_size("cogvideox", norm_scope="clip", convolutions="direct").encode(clip)
    whole = untiled(full_size("cogvideox", convolutions="direct"), clip)
    assert far(torch.cat([posterior.mean, posterior.logvar], 1), whole) < 1e-5


def test_scope_clip_does_attention_and_odd_shapes_as_the_whole_encoder_does() -> None:
    params = CogVideoXParams((8, 16, 16), 2, groups=4, temporal_ratio=2, attention_levels=(1,), middle_attention=True)
    clip = video(11, 12, 20)
    moments = []
    for scope in ("chunk", "clip"):
        with torch.device("meta"):
            module = Encoder(params, scope)
        assign(module, random_weights(module, "random:5"), "random:5")
        with torch.inference_mode():
            moments.append(module(clip, None)[0] if scope == "chunk" else encode_clip(module, clip, 4))
    assert far(moments[1], moments[0]) < 1e-5


def test_scope_chunk_does_depend_on_the_chunks_so_that_the_plan_is_identity() -> None:
    clip = video(17)
    assert far(tiny("chunk", 4).encode(clip).mean, tiny("chunk", 8).encode(clip).mean) > 1e-3
    assert tiny("chunk", 4).identity != tiny("chunk", 8).identity
    assert tiny("chunk").identity != tiny("chunk", chunk_plan="even").identity


def test_an_even_plan_gives_its_chunks_to_the_encoder() -> None:
    assert tiny("chunk", chunk_plan="even").plan(13) == (9, 4)
    assert tiny("chunk", chunk_plan="even").encode(video(13)).mean.shape[2] == 4


@pytest.mark.slow
@few
@given(
    frames=legal_frames,
    chunk_frames=st.sampled_from([4, 8, 12, 32]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    chunk_plan=st.sampled_from(["diffusers", "even"]),
)
def test_scope_frame_gives_the_same_bits_for_every_chunk_plan(
    frames: int, chunk_frames: int, dtype: str, chunk_plan: str
) -> None:
    one, other = tiny("frame", 8, dtype), tiny("frame", chunk_frames, dtype, chunk_plan)
    clip = video(frames)
    assert torch.equal(one.encode(clip).mean, other.encode(clip).mean)
    assert one.identity == other.identity


@pytest.mark.slow
@few
@given(cuts=st.lists(st.integers(1, 7), unique=True))
def test_scope_frame_depends_on_the_chunks_by_rounding_alone_however_they_are_cut(cuts: list[int]) -> None:
    clip, model = video(29), tiny("frame").engine.model  # type: ignore[attr-defined]
    bounds = [0, *(1 + 4 * cut for cut in sorted(cuts) if cut < 7), 29]
    state, parts = None, []
    with torch.inference_mode():
        for lo, hi in pairwise(bounds):
            moments, state = model(clip[:, :, lo:hi], state)
            parts.append(moments)
    posterior = whole("frame")
    assert far(torch.cat(parts, 2), torch.cat([posterior.mean, posterior.logvar], 1)) < 1e-5


@pytest.mark.slow
@few
@given(changed_from=st.integers(1, 28), seed=st.integers(1, 9))
def test_scope_frame_no_latent_sees_a_frame_after_its_own(changed_from: int, seed: int) -> None:
    other = video(29)
    other[:, :, changed_from:] = video(29, seed=seed)[:, :, changed_from:]
    before = (changed_from + 3) // 4  # latents whose frames all come before the change
    one, two = whole("frame"), tiny("frame").encode(other)
    assert torch.equal(one.mean[:, :, :before], two.mean[:, :, :before])
    assert torch.equal(one.logvar[:, :, :before], two.logvar[:, :, :before])
    assert not torch.equal(one.mean[:, :, before:], two.mean[:, :, before:])


@pytest.mark.slow
@few
@given(changed_from=st.integers(1, 28), chunk_frames=st.sampled_from([4, 8, 12]))
def test_scope_chunk_no_chunk_sees_a_later_one(changed_from: int, chunk_frames: int) -> None:
    ours = tiny("chunk", chunk_frames)
    other = video(29)
    other[:, :, changed_from:] = video(29, seed=1)[:, :, changed_from:]
    ends = torch.tensor(ours.plan(29)).cumsum(0)
    frames_before = max((end for end in ends.tolist() if end <= changed_from), default=0)
    before = ours.spec.latent_frames(frames_before) if frames_before else 0
    one, two = whole("chunk", chunk_frames).mean, ours.encode(other).mean
    assert torch.equal(one[:, :, :before], two[:, :, :before])
    assert not torch.equal(one[:, :, before:], two[:, :, before:])


def test_the_first_frame_alone_is_the_first_latent_only_where_norms_do_not_look_across_frames() -> None:
    clip = video(9)
    first = {scope: tiny(scope).encode_image(clip).mean for scope in ("chunk", "frame")}
    assert torch.equal(first["chunk"], tiny("chunk").encode(clip[:, :, :1]).mean)
    assert torch.equal(first["frame"], tiny("frame").encode(clip).mean[:, :, :1])
    assert far(first["chunk"], tiny("chunk").encode(clip).mean[:, :, :1]) > 1e-3


@pytest.mark.parametrize("scope", ["chunk", "clip", "frame"])
def test_streams_give_the_same_bits_in_every_scope(scope: str) -> None:
    clip = video(13)
    stream = tiny(scope).stream(13)
    parts = [stream.push(portion) for portion in clip.split([2, 7, 4], 2)]
    assert torch.equal(torch.cat([part.mean for part in parts if part is not None], 2), tiny(scope).encode(clip).mean)
