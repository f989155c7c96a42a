"""A remote text encoder is fetched once for all replicas of a node; one that cannot be used is refused by its key."""

from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.texts import make_text_encoder

from pipeline.config.text import TextConfig
from pipeline.errors import ConfigError
from pipeline.storage import node_cache
from pipeline.text.load import encoder_identity, load_text_encoder


def test_weights_of_a_url_are_fetched_once_per_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_text_encoder(tmp_path / "made", "umt5")
    fsspec.filesystem("memory").put(str(made), "/models/wan", recursive=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fetched, fetch = [], node_cache.fetch_url

    def counted(url: str, folder: str) -> None:
        fetched.append(url)
        fetch(url, folder)

    monkeypatch.setattr(node_cache, "fetch_url", counted)
    remote = TextConfig(encoder="memory://models/wan", preset="wan", dtype="float32")
    local = TextConfig(encoder=str(made), preset="wan", dtype="float32")
    identity = encoder_identity(remote)
    first, second = (load_text_encoder(remote, "cpu") for _ in range(2))
    assert fetched == ["memory://models/wan"]
    assert identity == first.identity == second.identity == encoder_identity(local)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"encoder": "memory://nowhere", "preset": "wan"}, "text.encoder: nothing is at memory://nowhere"),
        ({"encoder": "/nowhere", "preset": "wan"}, r"text: /nowhere has no config\.json"),
        ({"encoder": "diffusers:/nowhere"}, r"text: /nowhere/model_index\.json cannot be read"),
    ],
)
def test_an_encoder_that_is_not_there_is_named(
    values: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for use in (encoder_identity, lambda config: load_text_encoder(config, "cpu")):
        with pytest.raises(ConfigError, match=said):
            use(TextConfig(**values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"encoder": "a"}, "give preset: cogvideox, wan or mochi; or encoder: diffusers:FOLDER"),
        ({"encoder": "diffusers:a", "preset": "wan"}, "leave out preset: wan"),
        ({"encoder": "a", "preset": "flux"}, "'cogvideox', 'wan' or 'mochi'"),
        ({"encoder": "a", "preset": "wan", "key": "shard"}, "'id' or 'key'"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TextConfig(**values)
