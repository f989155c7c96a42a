"""Clips are taken inside the spans that a sample's JSON names; a span that can give none costs itself alone."""

import csv
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import RULES, SPEC, clip_configs, clip_of, header_at, header_of, headers
from support.runs import MakeConfig, run_all, run_json, write_tar

from encoder.video_encoder import VideoEncoder
from pipeline.audit.verify import Verified, verify
from pipeline.clips.frames import frames_of_span
from pipeline.clips.plan import ClipRules, plan_clips, plan_spans
from pipeline.config.latents import ClipConfig
from pipeline.errors import ConfigError, SampleError
from pipeline.metadata.fields import spans_at
from pipeline.output.manifests import read_manifests
from pipeline.output.parts import read_rows
from pipeline.output.paths import done_shards
from pipeline.records import Span, VideoHeader
from pipeline.storage.store import Store
from pipeline.video.synthetic.videos import make_video


def rules_of(*spans: Span) -> ClipRules:
    return ClipRules(SPEC, RULES.chunk_frames, spans)


def in_frames(begin: float, end: float) -> Span:
    return Span(begin, end, "frames")


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (Span(0, 0.4, "seconds"), range(10)),
        (Span(0.4, 0.8, "seconds"), range(10, 20)),
        (Span(0.41, 0.43, "seconds"), None),
        (Span(0, 4, "seconds"), range(100)),
        (Span(3.9, 4.03, "seconds"), range(98, 100)),  # within a frame of the end
        (in_frames(7, 100), range(7, 100)),
        (in_frames(0.5, 2.5), range(1, 3)),
    ],
)
def test_a_span_holds_the_frames_from_its_begin_until_before_its_end(span: Span, expected: range | None) -> None:
    if expected is None:
        with pytest.raises(SampleError, match="empty_span"):
            frames_of_span(header_of(100), span)
    else:
        assert frames_of_span(header_of(100), span) == expected


@pytest.mark.parametrize("span", [Span(0, 4.2, "seconds"), Span(90, 91, "seconds"), in_frames(0, 101)])
def test_a_span_beyond_the_video_is_refused_with_the_length_of_the_video(span: Span) -> None:
    with pytest.raises(SampleError, match=r"span_beyond_video: the video has 100 frames and 4\.000 s"):
        frames_of_span(header_of(100), span)


def test_neighbouring_spans_share_no_frame_and_lose_none() -> None:
    header = header_of(97, fps=24000 / 1001)
    cuts = [0.0, 1.001, 2.0, 3.3367, header.duration_seconds]
    spans = [frames_of_span(header, Span(begin, end, "seconds")) for begin, end in pairwise(cuts)]
    assert [index for span in spans for index in span] == list(range(97))


def test_windows_count_over_all_spans_and_refused_ones_take_a_number() -> None:
    spans = (in_frames(0, 20), in_frames(20, 24), in_frames(30, 40), in_frames(90, 200))
    clips, refused = plan_spans(header_of(100), clip_of(frames=9, fps=None, window="slide:6"), rules_of(*spans))
    assert [(clip.window_index, clip.frame_indices[0]) for clip in clips] == [(0, 0), (1, 6), (3, 30)]
    assert [(one.window_index, one.why.stage, one.why.reason) for one in refused] == [
        (2, "clip", "too_short"),
        (4, "clip", "span_beyond_video"),
    ]
    assert refused[0].why.detail.startswith("span [20, 24) frames: 4 frames")


def test_the_grid_of_a_rate_begins_with_the_span_and_ends_inside_it() -> None:
    (clip,), _ = plan_spans(header_of(100), clip_of(frames="full", fps=5), rules_of(in_frames(13, 40)))
    assert tuple(clip.frame_indices) == (13, 18, 23, 28, 33)  # 38 makes six, which is not 1 + 4k
    assert header_of(100).pts_seconds[clip.frame_indices[0]] == pytest.approx(13 / 25)


def test_the_rate_is_that_of_the_span_where_it_varies() -> None:
    times = [index / 20 for index in range(20)] + [1 + index / 4 for index in range(9)]
    config = clip_of(frames=5, fps=10)
    clips, refused = plan_spans(header_at(times), config, rules_of(in_frames(0, 20), in_frames(20, 29)))
    assert [tuple(clip.frame_indices) for clip in clips] == [(0, 2, 4, 6, 8)]
    assert [one.why.reason for one in refused] == ["fps_too_low"]


def test_without_spans_clips_are_those_of_the_whole_video() -> None:
    clip = clip_of(frames=9, fps=8, window="uniform:3")
    assert plan_spans(header_of(100), clip, RULES) == (plan_clips(header_of(100), clip, RULES), ())


@given(headers(), clip_configs, st.sets(st.integers(0, 90), min_size=2), st.booleans())
def test_every_span_gives_clips_inside_it_or_one_reason(
    header: VideoHeader, clip: ClipConfig, cuts: set[int], by_seconds: bool
) -> None:
    ends = sorted(cuts)
    unit = "seconds" if by_seconds else "frames"
    spans = [Span(begin, end, unit) for begin, end in pairwise(ends)]
    clips, refused = plan_spans(header, clip.model_copy(update={"upscale": True}), rules_of(*spans))
    numbered = sorted([*clips, *refused], key=lambda one: one.window_index)
    assert [one.window_index for one in numbered] == list(range(len(clips) + len(refused)))
    assert len(clips) + len(refused) >= len(spans)
    ends_of_clips = [spec.frame_indices[-1] for spec in clips]
    assert ends_of_clips == sorted(ends_of_clips), "rows come by window"
    inside = [frames_of_span(header, span) for span in spans if _gives_frames(header, span)]
    for spec in clips:
        assert sum({spec.frame_indices[0], spec.frame_indices[-1]} <= set(frames) for frames in inside) == 1
        assert SPEC.is_legal_frames(spec.frames)


def _gives_frames(header: VideoHeader, span: Span) -> bool:
    try:
        return len(frames_of_span(header, span)) > 0
    except SampleError:
        return False


@pytest.mark.parametrize(
    "spans",
    [
        *("", "null", "[]", "{}", "[1, 2]", "[[1, 2, 3]]", "[[2, 1]]", "[[-1, 1]]", '[["0", 1]]', "[[true, 2]]"),
        *("[[0, 2], [1, 3]]", "[[NaN, 1]]", "[[0, Infinity]]", "[[0, 1e300]]"),
    ],
)
def test_malformed_spans_are_refused(spans: str) -> None:
    with pytest.raises(ValueError, match="span"):
        spans_at(f'{{"scenes": {{"cuts": {spans}}}}}' if spans else "", "scenes.cuts", "seconds")


def test_spans_are_named_in_the_json(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"input\.spans: cannot read 'spans'"):
        make_config(input={"spans": "spans"})


def test_scene_split_footage_gives_the_rows_and_rejects_of_its_scenes(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder
) -> None:
    video = make_video(40, 8, 96, 64)
    trees = [{"spans": [[0, 1], [1, 1.5], [1.5, 5]]}, {"spans": [[0, 0.5]]}, {"spans": [[3, 2]]}, {}]
    files = [
        (f"film-{number}.{name}", content)
        for number, tree in enumerate(trees)
        for name, content in (("mp4", video), ("json", json.dumps(tree).encode()))
    ]
    write_tar(tmp_path / "a.tar", files)
    config = make_config(input={"spans": "json:spans"}, clip={"frames": 5, "buckets": ["32x48"], "fps": None})
    run_all(config, tiny)
    (part,) = (Path(config.output.path) / "latents").rglob("*.parquet")
    rows: list[dict[str, Any]] = list(read_rows(io.BytesIO(part.read_bytes())))
    assert [(row["id"], row["window_index"], row["frame_indices"][0]) for row in rows] == [
        (f"{rows[0]['shard']}/film-0:0", 0, 0),
        (f"{rows[0]['shard']}/film-0:2", 2, 12),
    ]
    store = Store(config.output.path)
    (manifest,) = read_manifests(store, done_shards(store))
    assert [(reject["sample_index"], reject["window_index"], reject["reason"]) for reject in manifest["rejects"]] == [
        (0, 1, "too_short"),
        (1, 0, "too_short"),
        (2, -1, "bad_spans"),
        (3, -1, "bad_spans"),
    ]
    store.create("run.json", run_json(config, tiny))
    assert list(verify(store, Verified())) == []


def test_each_clip_of_a_long_video_has_the_caption_of_its_span(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder
) -> None:
    """As Panda-70M lists them: a row for each video, with lists of times and of captions as texts in its cells."""
    (tmp_path / "film.mp4").write_bytes(make_video(40, 8, 96, 64))
    times = "[['0:00:00.000', '0:00:01.500'], ['0:00:01.500', '0:00:01.700'], ['0:00:02.000', '0:00:04.500']]"
    rows = [
        ("fine", times, "['a start', 'too short', 'two clips']"),
        ("gaps", times, "[None, 'too short', '']"),
        ("none", times, ""),
        ("two", times, "['one', 'and another']"),
    ]
    with (tmp_path / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("key", "video", "timestamp", "caption")])
        csv.writer(file).writerows((key, "film.mp4", *cells) for key, *cells in rows)
    config = make_config(
        input={
            "shards": None,
            "table": {"files": f"{tmp_path}/films.csv", "video": "video", "key": "key"},
            "caption": ["json:caption[]"],
            "spans": "json:timestamp",
            "captions_of": "span",
        },
        clip={"frames": 9, "buckets": ["32x48"], "fps": 8, "window": "slide:9"},
    )
    run_all(config, tiny)
    parts = sorted((Path(config.output.path) / "latents").rglob("*.parquet"))
    found = [row for part in parts for row in read_rows(io.BytesIO(part.read_bytes()))]
    assert sorted((row["key"], row["window_index"], row["caption"], row["captions"]) for row in found) == [
        ("fine", 0, "a start", ["a start"]),
        ("fine", 2, "two clips", ["two clips"]),
        ("fine", 3, "two clips", ["two clips"]),
        ("gaps", 0, "", [""]),
        ("gaps", 2, "", [""]),
        ("gaps", 3, "", [""]),
        ("none", 0, "", []),
        ("none", 2, "", []),
        ("none", 3, "", []),
    ]
    store = Store(config.output.path)
    (manifest,) = read_manifests(store, done_shards(store))
    (refused,) = (reject for reject in manifest["rejects"] if reject["key"] == "two")
    assert (refused["reason"], refused["window_index"]) == ("bad_spans", -1)
    assert "as many captions as spans, got 2 and 3" in refused["detail"]
    assert manifest["clips_without_caption"] == 3


def test_captions_of_spans_need_spans(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"captions_of: span gives each span its caption: say where spans stand"):
        make_config(input={"captions_of": "span"})
