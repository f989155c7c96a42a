"""What `encoder.bench` times: the same pixels for every backend, in chunks of every length that a clip has."""

import pytest
import torch

from encoder.bench import clip_of, few_frames, streamed, whole_video, with_ratios
from encoder.video_encoder import VideoEncoder

pytest.importorskip("diffusers")


def test_our_encoder_takes_a_clip_chunk_by_chunk_and_diffusers_the_same_pixels_whole(tiny: VideoEncoder) -> None:
    clip = clip_of((21, 16, 24))
    assert len(set(clip[:, 0, 0, 0].tolist())) > 1, "it must move"
    whole = whole_video(clip, tiny)
    assert torch.equal(whole, tiny.to_video(clip))
    parts = list(streamed(tiny, clip))
    assert len(parts) == len(tiny.plan(21)) > 1
    posterior = tiny.encode(whole)
    assert torch.equal(torch.cat(parts, 2), torch.cat([posterior.mean, posterior.logvar], 1))


def test_few_frames_have_every_length_of_chunk(tiny: VideoEncoder) -> None:
    for frames in range(1, 80, 4):
        assert set(tiny.plan(few_frames(frames))) == set(tiny.plan(frames))


def test_without_diffusers_there_is_no_ratio() -> None:
    line = {"shape": "5x16x24", "dtype": "float32", "convolutions": "direct", "median_seconds": 1.0, "peak_bytes": 1}
    assert with_ratios([line]) == [line]
