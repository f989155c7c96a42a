"""A condition is understood or refused, never run; a filtered sample is counted apart from rejects."""

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.makers import made_row
from support.runs import MakeConfig, run_all, run_json, write_tar

from encoder.video_encoder import VideoEncoder
from pipeline.audit.status import read_status
from pipeline.audit.summary import summarise
from pipeline.audit.verify import Verified, verify
from pipeline.cluster.fleet import within_limit
from pipeline.errors import ConfigError, SampleError
from pipeline.input.listing import list_shards
from pipeline.latents.task import ShardTask
from pipeline.metadata.conditions import parse_condition
from pipeline.metadata.filters import check_header, check_metadata
from pipeline.monitor.events import ShardDone
from pipeline.output.manifests import read_manifests
from pipeline.output.paths import done_shards
from pipeline.records import DecodeItem, Sample
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder
from pipeline.video.synthetic.videos import make_video

METADATA = {"aesthetic": {"score": 5.5}, "nsfw": False, "lang": "en", "tags": ["cat"], "none": None, "n": -3}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("aesthetic.score >= 5 and not nsfw", True),
        ("aesthetic.score >= 6 or nsfw", False),
        ("5 < aesthetic.score < 6", True),
        ("5 < aesthetic.score < 5.2", False),
        ("lang in ['en', 'de']", True),
        ("lang not in ['en', 'de']", False),
        ("'cat' in tags", True),
        ("none == None", True),
        ("n == -3 and lang != 'de'", True),
        ("nsfw or nothing.at.all", None),
        ("not nsfw or nothing.at.all", True),
        ("  lang == 'en'  ", True),
    ],
)
def test_a_condition_is_decided_by_the_fields_of_the_json(where: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(SampleError, match=r"filter/missing_field: filter.where uses nothing\.at\.all"):
            check_metadata(where, json.dumps(METADATA))
    elif expected:
        check_metadata(where, json.dumps(METADATA))
    else:
        with pytest.raises(SampleError, match="filter/where: not "):
            check_metadata(where, json.dumps(METADATA))


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').system('true')",
        "score.__class__()",
        "scores[0] > 1",
        "(lambda: 1)()",
        "[x for x in y]",
        "a + 1 > 2",
        "a if b else c",
        "f'{a}'",
        "a := 1",
        "'x'.y == 1",
        "a is b",
        "a = 1",
        "1 +",
        "",
        "b'x' == a",
        "-a > 1",
        "(" * 500 + "a" + ")" * 500,
    ],
)
def test_a_text_that_is_not_a_condition_is_refused_by_the_configuration(where: str, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"filter\.where: .* may contain comparisons"):
        make_config(filter={"where": where})


@given(st.text("ab.'[]()<=-1 notrd", max_size=20))
def test_any_text_is_either_refused_or_a_condition(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_condition(text)
        with contextlib.suppress(SampleError):
            check_metadata(text, json.dumps(METADATA))


@pytest.mark.parametrize("metadata", ["", "no json", "[1]", "null"])
def test_a_sample_without_the_field_is_filtered_by_name(metadata: str) -> None:
    with pytest.raises(SampleError, match="filter/missing_field"):
        check_metadata("score > 1", metadata)
    check_metadata(None, metadata)


def test_values_that_cannot_be_compared_filter_the_sample() -> None:
    with pytest.raises(SampleError, match="filter/not_comparable"):
        check_metadata("score > 1", '{"score": "high"}')


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ((1.125, 720, 8.0), None),
        ((1.126, None, None), "too_short"),
        ((None, 721, None), "too_small"),
        ((None, None, 8.01), "fps_too_low"),
    ],
)
def test_a_header_is_filtered_by_length_size_and_rate(bounds: Any, reason: str | None) -> None:
    header = made_row().header
    if reason is None:
        check_header(header, *bounds)
        return
    with pytest.raises(SampleError) as caught:
        check_header(header, *bounds)
    assert caught.value.why.code == f"filter/{reason}"


class Noting(LocalDecoder):
    """Notes which samples are decoded, in a list that all of them share."""

    seen: ClassVar[list[int]] = []

    def start(self, sample: Sample, segment: int = 0) -> Generator[DecodeItem, None, None]:
        self.seen.append(sample.index)
        return super().start(sample, segment)


def test_filtered_samples_are_accounted_for_apart_from_rejects(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    contents = [(videos[0], 9), (videos[2], 1), (make_video(20, 8, 48, 32), 9), (b"<html>", 9), (videos[4], None)]
    files = [
        (f"clip-{number}.{name}", content)
        for number, (video, score) in enumerate(contents)
        for name, content in (("mp4", video), ("json", json.dumps({} if score is None else {"score": score}).encode()))
    ]
    write_tar(tmp_path / "a.tar", files)
    config = make_config(filter={"where": "score >= 5", "min_short_side_px": 64})
    store = Store(config.output.path)
    store.create("run.json", run_json(config, tiny))
    task = ShardTask(config, tiny, Noting(config, tiny.spec), store)
    (done,) = [event for event in task.run(list_shards(config.input.shards)[0]) if isinstance(event, ShardDone)]
    assert done.samples == 5
    assert Noting.seen == [0, 2, 3], "the condition is decided before decoding"
    (manifest,) = read_manifests(store, done_shards(store))
    assert [(reject["sample_index"], reject["window_index"], reject["reason"]) for reject in manifest["rejects"]] == [
        (1, -1, "where"),
        (2, -1, "too_small"),
        (3, -1, "not_a_video"),
        (4, -1, "missing_field"),
    ]
    summary = summarise([manifest])
    assert (summary["samples_with_clips"], summary["samples_rejected"], summary["samples_filtered"]) == (1, 1, 3)
    assert summary["filtered_by_reason"] == {"filter/missing_field": 1, "filter/too_small": 1, "filter/where": 1}
    assert summary["rejects_by_reason"] == {"probe/not_a_video": 1}
    assert within_limit(summary["samples_rejected"], summary["samples"], 0.2)
    assert list(verify(store, Verified())) == []


def test_a_run_over_filtered_samples_alone_has_no_rejects(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    write_tar(tmp_path / "a.tar", [("a.mp4", videos[0]), ("b.mp4", videos[1])])
    config = make_config(filter={"min_seconds": 100})
    run_all(config, tiny)
    store = Store(config.output.path)
    (manifest,) = read_manifests(store, done_shards(store))
    assert (manifest["samples"], manifest["rows"], manifest["samples_filtered"]) == (2, 0, 2)
    run = json.loads(run_json(config, tiny)) | {"config": {"input": {"shards": [f"{tmp_path}/a.tar"]}}}
    store.create("run.json", json.dumps(run).encode())
    assert [shard.rejects for shard in read_status(store)] == [0]
