"""Synthetic videos are real videos, the same each time, with frames that can be distinguished."""

import io

import av
import numpy as np
import pytest

from pipeline.video.synthetic.videos import draw_frame, make_video, read_number


def decode_all(video: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(video)) as opened:
        return [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others():
    first, second, other = (make_video(5, 8, 96, 64, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first != other


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4"), ("mpegts", "libx264")]
)
def test_the_number_of_every_frame_can_be_read_back_after_encoding(container: str, codec: str):
    pictures = decode_all(make_video(20, 8, 128, 96, container=container, codec=codec))
    assert [read_number(picture) for picture in pictures] == list(range(20))


def test_the_number_holds_over_its_whole_range():
    assert [read_number(draw_frame(number, 96, 64)) for number in (0, 1, 2047, 4095)] == [0, 1, 2047, 4095]


def test_frames_are_shown_when_asked():
    times = [0.0, 0.1, 0.5, 0.75]
    with av.open(io.BytesIO(make_video(4, 8, 96, 64, pts_seconds=times))) as opened:
        assert [frame.time for frame in opened.decode(video=0)] == pytest.approx(times, abs=1e-4)


def test_a_rotation_is_written_as_players_read_it():
    with av.open(io.BytesIO(make_video(2, 8, 96, 64, rotation_degrees=90))) as opened:
        assert next(opened.decode(video=0)).rotation % 360 == 90


def test_pictures_move_and_differ_in_colour():
    first, later = draw_frame(0, 96, 64), draw_frame(10, 96, 64)
    assert np.abs(first[8:].astype(int) - later[8:]).mean() > 10
    assert np.ptp(first[8:].reshape(-1, 3), axis=0).min() > 50
