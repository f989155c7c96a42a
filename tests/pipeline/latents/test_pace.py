"""How many samples are on their way follows from what they take, and never from more memory than there is."""

import threading

import pytest

from pipeline.latents.pace import LEAST_AHEAD, Pace, samples_ahead


@pytest.mark.parametrize(
    ("decode_seconds", "encode_seconds", "cpus", "ahead"),
    [
        (0.0, 0.0, 16, 16),  # nothing known: all CPUs at once
        (1.0, 0.0, 16, 16),
        (0.882, 0.196, 16, 11),
        (0.882, 0.196, 8, 8),
        (0.1, 1.0, 16, LEAST_AHEAD),
        (0.1, 1.0, 1, LEAST_AHEAD),
        (100.0, 0.1, 64, 64),
    ],
)
def test_as_many_are_ahead_as_keep_the_device_busy(
    decode_seconds: float, encode_seconds: float, cpus: int, ahead: int
) -> None:
    assert samples_ahead(decode_seconds, encode_seconds, cpus) == ahead


def room(pace: Pace, size_bytes: int) -> int:
    """How many samples of a size may be on their way at once."""
    count = 0
    while pace.has_room(size_bytes):
        assert pace.begin(size_bytes, threading.Event())
        count += 1
    return count


def test_until_it_is_known_what_samples_take_every_cpu_decodes() -> None:
    assert room(Pace(cpus=16), 1) == 16


def test_what_was_measured_decides_afterwards() -> None:
    pace = Pace(cpus=16)
    pace.decoded(0.1)
    pace.encoded(1.0)
    assert room(pace, 1) == LEAST_AHEAD


def test_videos_and_frames_on_their_way_stay_under_the_bound() -> None:
    pace = Pace(cpus=16, ahead_bytes=1000)
    assert room(pace, 300) == 3
    pace.end(300)
    assert pace.has_room(300)
    assert not pace.has_room(500)


def test_a_sample_larger_than_the_bound_is_alone_on_its_way() -> None:
    pace = Pace(cpus=16, ahead_bytes=1000)
    assert room(pace, 5000) == 1


def test_in_one_process_a_sample_is_decoded_when_the_one_before_is_encoded() -> None:
    assert room(Pace(), 1) == 1


def test_whoever_waits_goes_on_when_a_sample_ends_or_the_work_is_stopped() -> None:
    pace, stopped, results = Pace(), threading.Event(), list[bool]()
    assert pace.begin(1, stopped)
    waiting = threading.Thread(target=lambda: results.append(pace.begin(1, stopped)))
    waiting.start()
    pace.end(1)
    waiting.join(10)
    waiting = threading.Thread(target=lambda: results.append(pace.begin(1, stopped)))
    waiting.start()
    stopped.set()
    waiting.join(10)
    assert results == [True, False]
