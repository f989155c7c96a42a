"""The pipeline with an encoder that remembers: what an encoder computes is for tests/encoder/ to say."""

import pytest

from encoder.video_encoder import VideoEncoder


@pytest.fixture(scope="session")
def tiny(remembering_tiny: VideoEncoder) -> VideoEncoder:
    return remembering_tiny
