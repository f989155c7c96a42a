"""Inputs after public bug reports, where they lie beside the repository: each gives what it should.

Kinds of the same are made up in the tests of each room; those about pictures are in tests/pipeline/video.
"""

from pathlib import Path
from typing import Any

import pytest
from support.paths import SHARED
from support.runs import MakeConfig, run_all

from encoder.video_encoder import VideoEncoder
from pipeline.audit.show import find_clips
from pipeline.config.load import Config
from pipeline.input.listing import shards_of
from pipeline.input.pack import pack
from pipeline.input.samples import samples_of
from pipeline.records import Sample
from pipeline.storage.store import Store

REPORTS = SHARED / "reports"
pytestmark = pytest.mark.skipif(not REPORTS.is_dir(), reason="the inputs are not here")


@pytest.fixture
def configured(make_config: MakeConfig) -> Any:
    """A configuration for some of the reports: tars, or a table of `key` and `video`."""

    def make(*names: str, video: str = "", key: str = "id", **rules: Any) -> Config:
        files = [str(REPORTS / name) for name in names]
        source = {"shards": None, "table": {"files": files, "video": video, "key": key}} if video else {"shards": files}
        return make_config(input={**source, **rules})

    return make


def read(config: Config) -> list[Sample]:
    return [sample for shard in shards_of(config.input) for sample in samples_of(shard, config)]


def captions(samples: list[Sample]) -> dict[str, str]:
    assert all(sample.problem is None and sample.video for sample in samples)
    return {sample.key: sample.caption for sample in samples}


def test_ids_and_captions_that_look_like_numbers_stay_as_they_are(configured: Any, tiny: VideoEncoder) -> None:
    config = configured("ids.csv", video="path")
    assert captions(read(config)) == {"12345e67": "12345e67", "1.10": "1.10", "ok1": "plain"}
    run_all(config, tiny)
    (found,) = find_clips(Store(config.output.path), "1.10")
    assert found["caption"] == "1.10"


def test_what_lies_beside_a_video_in_a_tar_is_its_caption(configured: Any) -> None:
    assert captions(read(configured("beside.tar"))) == {
        "clip_0.5s": "half second",
        "c_bom": "Ein Café am Abend",
        "c_jsonbom": "json with bom",
    }


def test_only_the_bytes_of_a_struct_are_left_out(configured: Any) -> None:
    samples = read(configured("nested_bytes.parquet", video="video", caption="json:meta.caption"))
    assert captions(samples) == {"a": "inside a struct"}
    assert samples[0].metadata == '{"meta": {"caption": "inside a struct", "score": 5.5}, "id": "a"}'


def test_a_duration_that_nobody_asks_for_becomes_text(configured: Any) -> None:
    first, second = read(configured("duration_ns.parquet", video="video"))
    assert all(sample.video and not sample.problem for sample in (first, second))
    assert '"duration": "PT1.234567891S"' in first.metadata


def test_the_double_of_a_file_by_another_system_is_not_packed(tmp_path: Path) -> None:
    made = pack([str(REPORTS / "pack_me")], str(tmp_path / "out"), ("mp4",), 10)
    assert (made.samples, made.passed_over) == (2, {"._* (AppleDouble)": 1})


def test_ids_are_unique_whatever_the_keys_are(configured: Any, tiny: VideoEncoder) -> None:
    config = configured("same_keys_0.tar", "same_keys_1.tar")
    run_all(config, tiny)
    found = find_clips(Store(config.output.path), "000")
    assert [clip["key"] for clip in found] == ["000", "000"]
    assert len({clip["id"] for clip in found}) == 2


def test_bare_quotes_of_a_tsv_are_text(configured: Any) -> None:
    assert captions(read(configured("quotes.tsv", video="video"))) == {
        "a": '"Hello" he said',
        "b": "plain",
        "c": '"open quote only',
        "d": "last",
    }


def test_a_gzip_that_is_named_tar_is_read(configured: Any) -> None:
    (sample,) = read(configured("gz_named.tar"))
    assert (sample.key, bool(sample.video), sample.problem) == ("000", True, None)
