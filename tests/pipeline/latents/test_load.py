"""Encoders by configuration: remote weights come once, and what is wrong is said as the user's error."""

from pathlib import Path
from typing import cast

import fsspec
import pytest
from diffusers import AutoencoderKLCogVideoX

from encoder.video_encoder import VideoEncoder
from pipeline.config.latents import EncoderConfig
from pipeline.config.runtime import RuntimeConfig
from pipeline.errors import ConfigError, UserError
from pipeline.latents.load import check_model_of_gpu, load_encoder
from pipeline.storage.store import Store

TINY = {"block_out_channels": (16, 32, 32, 64), "layers_per_block": 1, "norm_num_groups": 8}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    AutoencoderKLCogVideoX(**TINY).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def test_remote_weights_are_the_local_ones_and_are_fetched_once(checkpoint: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(checkpoint), "/models/vae", recursive=True)
    remote = EncoderConfig(name="tiny", weights="memory://models/vae")
    first = load_encoder(remote, "cpu")
    assert (
        first.weights_sha256 == load_encoder(EncoderConfig(name="tiny", weights=str(checkpoint)), "cpu").weights_sha256
    )
    memory.rm("/models/vae", recursive=True)
    assert load_encoder(remote, "cpu").weights_sha256 == first.weights_sha256


def test_missing_remote_weights_are_named_without_secrets(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing is at memory://models/none$"):
        load_encoder(EncoderConfig(name="tiny", weights="memory://models/none"), "cpu")


def test_a_choice_that_the_encoder_has_not_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"encoder: .*multiple"):
        load_encoder(EncoderConfig(name="tiny", weights="random:0", chunk_frames=3), "cpu")


class OnGpu:
    """What of an encoder says which GPU it is on."""

    def __init__(self, model: str, device: str = "cuda") -> None:
        self.computed_by = {"device": device, "model": model}


def test_a_run_may_refuse_gpus_of_another_model_than_it_began_on_also_when_it_resumes(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    allow, refuse = RuntimeConfig(), RuntimeConfig(mixed_gpus="refuse")
    first, second = cast(VideoEncoder, OnGpu("NVIDIA H100")), cast(VideoEncoder, OnGpu("NVIDIA A100"))
    check_model_of_gpu(allow, second, store)
    assert store.names("") == [], "nothing is noted where models may be mixed"
    for loaded in (cast(VideoEncoder, OnGpu("a CPU", device="cpu")), first, first):
        check_model_of_gpu(refuse, loaded, store)
    with pytest.raises(UserError, match=r"mixed_gpus: .* a NVIDIA A100, but .* on a NVIDIA H100"):
        check_model_of_gpu(refuse, second, store)
    check_model_of_gpu(allow, second, store)
