"""The trained weights that come with the package: small, of both halves, and good enough to look at."""

import numpy as np
import pytest
from support.paths import ROOT

import encoder
from encoder.spec import SHIPPED_WEIGHTS
from encoder.weights import SHIPPED, WeightsError
from pipeline.audit.redecode import psnr_db
from pipeline.video.synthetic.scenes import draw_scene

MOST_BYTES = 2_000_000


def test_the_weights_are_small_and_the_package_contains_them() -> None:
    assert {folder.name for folder in SHIPPED.iterdir()} == set(SHIPPED_WEIGHTS)
    for folder in SHIPPED.iterdir():
        assert sum(file.stat().st_size for file in folder.iterdir()) <= MOST_BYTES
    assert '"shipped/*/*"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.slow
def test_what_tiny_encodes_its_decoder_shows() -> None:
    """On scenes that it was not trained on; docs/fidelity.md has the figures of the demo's own."""
    loaded, decoder = encoder.load("tiny", weights="tiny", convolutions="direct"), encoder.load_decoder("tiny")
    decibels = []
    for seed in range(4):
        frames = np.stack([draw_scene(2 * number, 96, 96, seed) for number in range(9)])
        latent = loaded.encode(loaded.to_video(frames)).mean[0]
        decibels.append(psnr_db(frames, decoder.decode(latent.numpy())))
    assert np.mean(decibels) >= 24


def test_a_latent_of_tiny_has_a_deviation_of_about_one_once_scaled() -> None:
    loaded = encoder.load("tiny", weights="tiny", convolutions="direct")
    frames = np.stack([draw_scene(number, 64, 64, 5) for number in range(5)])
    assert loaded.spec.scaling_factor is not None
    assert 0.5 < float(loaded.encode(loaded.to_video(frames)).mean.std()) * loaded.spec.scaling_factor < 2


def test_a_missing_path_is_answered_with_the_weights_there_are() -> None:
    with pytest.raises(WeightsError, match="a file of tensors, tiny or random:SEED"):
        encoder.load("tiny", weights="tinny")
