"""The configurations of `configs/` suit their encoders, name their sources, and are listed."""

import re
from pathlib import Path

import diffusers
import pytest
import torch
from support.paths import ROOT

import encoder
from encoder import LatentSpec
from encoder.diffusers_vae import CLASSES, spec_of_vae
from pipeline.clips.plan import check_clip_config
from pipeline.config.load import Config, load_config

FILES = sorted((ROOT / "configs").glob("*.yaml"))
OF_MODELS = [path for path in FILES if path.stem not in ("bench", "demo")]
OF_DIFFUSERS = {"hunyuanvideo": "AutoencoderKLHunyuanVideo", "mochi": "AutoencoderKLMochi"}
TRAINED = {"cogvideox-2b", "cogvideox-5b", "cogvideox-1.5", "wan-2.1", "wan-2.2", "hunyuanvideo", "ltx-video", "mochi"}


def name_of(path: Path) -> str:
    return path.stem


def spec_for(path: Path, config: Config) -> LatentSpec:
    """What the encoder of a configuration makes: of a VAE of diffusers, that of the published size."""
    if config.encoder.name != "diffusers":
        return encoder.spec_of(config.encoder.name)
    assert OF_DIFFUSERS[path.stem] in CLASSES
    with torch.device("meta"):
        spec: LatentSpec = spec_of_vae(getattr(diffusers, OF_DIFFUSERS[path.stem])())
    return spec


def comments(path: Path) -> str:
    return " ".join(line.strip("# ") for line in path.read_text().splitlines() if line.startswith("#"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_frames_and_pictures_of_a_configuration_are_legal_for_its_encoder(path: Path) -> None:
    config = load_config(str(path))
    spec = spec_for(path, config)
    check_clip_config(config.clip, spec)
    for frames, (height_px, width_px) in zip(config.clip.bucket_frames, config.clip.bucket_sizes_px, strict=True):
        assert frames is not None
        assert spec.latent_shape(frames, height_px, width_px)[1] == 1 + (frames - 1) // spec.temporal_ratio


@pytest.mark.parametrize("path", OF_MODELS, ids=name_of)
def test_what_a_configuration_offers_besides_is_legal_too(path: Path) -> None:
    """Overrides that its comments name."""
    text = comments(path)
    overrides = re.findall(r"(clip\.buckets)='(\[[^\]]*\])'", text)
    assert overrides or "clip.buckets" not in text
    for key, value in overrides:
        config = load_config(str(path), [f"{key}={value}"])
        check_clip_config(config.clip, spec_for(path, config))


@pytest.mark.parametrize("path", OF_MODELS, ids=name_of)
def test_a_configuration_names_its_sources_its_scaling_and_how_it_is_run(path: Path) -> None:
    text = comments(path)
    assert re.search(r"Sources: [\w.-]+/[\w.-]+, \S+", text)
    assert "Scaling: " in text
    assert f"latentmill run configs/{path.name} " in text


@pytest.mark.parametrize("path", OF_MODELS, ids=name_of)
def test_the_scaling_that_a_configuration_names_is_the_formula_of_its_family(path: Path) -> None:
    formula = spec_for(path, load_config(str(path))).scaling_formula
    if formula is not None:  # that of LTX comes with its weights
        names = set(re.findall(r"latents_mean|latents_std|scaling_factor", formula))
        said = comments(path).partition("Scaling: ")[2]
        assert names - {"scaling_factor"} == set(re.findall(r"latents_mean|latents_std", said))


def test_there_is_one_for_each_model_and_the_page_on_models_lists_it() -> None:
    assert {path.stem for path in OF_MODELS} == TRAINED
    listed = set(re.findall(r"configs/([\w.-]+)\.yaml", (ROOT / "docs" / "models.md").read_text()))
    assert listed == TRAINED
