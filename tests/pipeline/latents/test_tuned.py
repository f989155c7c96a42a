"""What was measured on this machine is kept for the next run, and nothing else is taken for it."""

from pathlib import Path

import pytest

import encoder
from pipeline.config.latents import EncoderConfig
from pipeline.latents.tuned import keep, kept, key_here, tuning_key

CONFIG = EncoderConfig(weights="random:0")
MACHINE = {"device": "an EPYC", "torch": "2.13"}
SHAPES = ("128-128x8", "3-128x9")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_choice_is_found_again_under_its_key_alone() -> None:
    assert kept("a") is None
    keep("a", {"128-128x8": "winograd"})
    keep("b", {})
    assert (kept("a"), kept("b"), kept("c")) == ({"128-128x8": "winograd"}, {}, None)


def test_the_key_changes_with_all_that_decides_what_is_fastest() -> None:
    same = tuning_key(CONFIG, SHAPES, MACHINE, 2)
    assert same == tuning_key(CONFIG, SHAPES[::-1], dict(MACHINE), 2)
    others = [
        tuning_key(EncoderConfig(weights="random:0", dtype="float32"), SHAPES, MACHINE, 2),
        tuning_key(CONFIG, SHAPES[:1], MACHINE, 2),
        tuning_key(CONFIG, SHAPES, MACHINE | {"torch": "2.14"}, 2),
        tuning_key(CONFIG, SHAPES, MACHINE, 1),
    ]
    assert len({same, *others}) == 5
    assert tuning_key(EncoderConfig(weights="elsewhere"), SHAPES, MACHINE, 2) == same


def test_this_machine_says_what_it_is() -> None:
    assert {"torch", "c_compiler"} <= encoder.machine("cpu").keys()
    assert key_here(CONFIG, SHAPES, 2) == key_here(CONFIG, SHAPES, 2) != key_here(CONFIG, SHAPES, 1)


@pytest.mark.parametrize("content", [b"", b"[]", b"{"])
def test_a_damaged_file_is_measured_again(cache: Path, content: bytes) -> None:
    keep("a", {})
    (file,) = cache.rglob("*.json")
    file.write_bytes(content)
    assert kept("a") is None


def test_a_cache_that_cannot_be_written_costs_nothing_but_the_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep("a", {})
    assert kept("a") is None
