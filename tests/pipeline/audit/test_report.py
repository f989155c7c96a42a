"""The report shows the totals, needs no other file, and takes no markup from anyone."""

import math
from html.parser import HTMLParser
from typing import Any

import pytest

from pipeline.audit.report import render_report

EVIL = '<script>alert("&")</script>'
VOID = {"meta"}


def made_summary(**changes: Any) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "shards": 2,
        "samples": 1234567,
        "samples_with_clips": 1234560,
        "samples_rejected": 7,
        "samples_filtered": 5,
        "rows": 9,
        "rejects": 7,
        "ignored_files": 2,
        "clips_without_caption": 4,
        "losses": {"replaced_text": 1, "unused_file .srt": 6},
        "parts": 3,
        "size_bytes": 10,
        "encoder_busy_fraction": 0.987,
        "seconds_by_stage": {"encode": 3.25, "write": 1.0},
        "rejects_by_reason": {"probe/not_video": 7},
        "filtered_by_reason": {"filter/where": 5},
        "rows_by_bucket": {"16x13x60x90": 9},
        "parts_by_device": {"device cpu, model X": 2, "device cuda, model Y": 1},
        "shards_left": 0,
        "shards_failed": {},
        "latent_statistics": {"count": 4, "sum": [8.0], "sum_squares": [20.0], "min": [-1.0], "max": [5.0]},
    }
    return summary | changes


RUN: dict[str, Any] = {"fingerprint": "f00d", "config": {"clip": {"fps": 8, "buckets": ["480x720"]}, "strict": False}}


class Page(HTMLParser):
    """The elements and words of a page; refuses one whose elements do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += f" {data}"


def test_the_totals_are_shown() -> None:
    words = Page(render_report(made_summary(), RUN)).words
    for expected in ("complete", "1,234,567", "98.7%", "encode 3.25", "probe/not_video 7", "16x13x60x90 9", "f00d"):
        assert expected in words
    assert "buckets: ['480x720']" in words


def test_the_mean_and_deviation_of_a_channel_are_shown() -> None:
    words = Page(render_report(made_summary(), RUN)).words
    deviation = math.sqrt(20 / 4 - 2**2)
    assert f"0 2.0000 {deviation:.4f} -1.0000 5.0000" in words


def test_a_run_that_is_not_complete_says_so() -> None:
    words = Page(render_report(made_summary(shards_left=1200, shards_failed={"a": "ShardError: cut"}), RUN)).words
    assert "1,200 shards left" in words
    assert "a ShardError: cut" in words


@pytest.mark.parametrize(
    ("summary", "run"),
    [
        (made_summary(rejects_by_reason={EVIL: 1}), RUN),
        (made_summary(rows_by_bucket={EVIL: 1}), RUN),
        (made_summary(seconds_by_stage={EVIL: 1.0}), RUN),
        (made_summary(shards_failed={EVIL: "words"}), RUN),
        (made_summary(shards_failed={"a": EVIL}), RUN),
        (made_summary(), RUN | {"fingerprint": EVIL}),
        (made_summary(), RUN | {"config": {EVIL: 1}}),
        (made_summary(), RUN | {"config": {"input": {"shards": [EVIL]}}}),
    ],
)
def test_what_users_name_is_text_and_never_markup(summary: dict[str, Any], run: dict[str, Any]) -> None:
    page = Page(render_report(summary, run))
    assert "script" not in page.elements
    assert EVIL in page.words


def test_what_computed_the_parts_is_shown() -> None:
    assert "device cuda, model Y" in render_report(made_summary(), RUN)


def test_the_report_is_one_file() -> None:
    page = Page(render_report(made_summary(), RUN))
    assert not page.elements & {"script", "link", "img", "iframe"}
    assert not page.attributes & {"src", "href"}
    assert "url(" not in render_report(made_summary(), RUN)


def test_a_run_that_made_nothing_has_a_report_too() -> None:
    empty = made_summary(
        seconds_by_stage={},
        rejects_by_reason={},
        rows_by_bucket={},
        parts_by_device={},
        latent_statistics={},
        encoder_busy_fraction=None,
    )
    assert "n/a" in Page(render_report(empty, RUN)).words
    assert "encode 0" in Page(render_report(made_summary(seconds_by_stage={"encode": 0.0}), RUN)).words


def test_what_of_the_input_is_in_no_row_is_counted_by_name() -> None:
    words = Page(render_report(made_summary(), RUN)).words
    for counted in ("clips without a caption 4", "files not used: .srt 6", "replaced characters or cells 1"):
        assert counted in words
