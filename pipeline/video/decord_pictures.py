"""Pictures decoded by Decord, checked against what the container says; the only file that imports Decord."""

from collections.abc import Iterator

import decord
import numpy as np

from pipeline.records import VideoHeader
from pipeline.video.probe import Probe
from pipeline.video.pyav_pictures import Decoded

TIME_TOLERANCE_SECONDS = 0.001  # Decord gives times as float32
NO_SUBSTITUTES = 0.0001  # share of frames that Decord may replace by their neighbours: none
TIMES_AT_ONCE = 4096
DECORD_ERRORS = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, AssertionError)


def decord_pictures(path: str, found: Probe, needed: bytearray) -> Iterator[Decoded]:
    """As `pyav_pictures`, read forward from frame 0: Decord's random access gives wrong frames in many files.

    Raises:
        One of DECORD_ERRORS: Decord cannot decode the video, or disagrees with the container about its frames.
    """
    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(path, num_threads=1, fault_tol=NO_SUBSTITUTES)
    header = found.header
    assert len(reader) == header.frames, "Decord and the container count different numbers of frames"
    if header.start_seconds is not None:
        _check_times(reader, header)
    for index in range(needed.rindex(1) + 1):
        picture = reader.next()
        if not needed[index]:
            yield None
            continue
        assert picture.shape == (header.height_px, header.width_px, 3), "Decord gives frames of another size"
        yield index, picture.asnumpy()


def _check_times(reader: decord.VideoReader, header: VideoHeader) -> None:
    times, first_seconds = np.frombuffer(header.pts_seconds), reader.get_frame_timestamp([0])[0, 0]
    for begin in range(0, header.frames, TIMES_AT_ONCE):
        block = times[begin : begin + TIMES_AT_ONCE]
        starts = reader.get_frame_timestamp(range(begin, begin + len(block)))[:, 0]
        drift_seconds = np.abs(starts - first_seconds - block)
        assert drift_seconds.max() < TIME_TOLERANCE_SECONDS, "Decord and the container give different times"
