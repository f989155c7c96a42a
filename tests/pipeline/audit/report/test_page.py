"""The report shows what a run made, lost and took, needs no other file, and takes no markup from anyone."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.makers import TALL, WIDE, commit_shard, made_latent
from support.paths import ROOT
from support.reports import RUN, made_data, made_summary
from support.runs import MakeConfig, run_all, samples_of, write_tar

from encoder.video_encoder import VideoEncoder
from pipeline.audit.report import gather as gathering
from pipeline.audit.report.advice import ADVICE
from pipeline.audit.report.data import LATENTS_ALONE, ClipFacts, Examples, Pictures, ReportData, Shown
from pipeline.audit.report.gather import clip_facts, gather, histograms, outliers
from pipeline.audit.report.page import render_report
from pipeline.audit.status import refresh_report
from pipeline.config.identity import fingerprint, identity
from pipeline.output.run_file import RunFile
from pipeline.run import public_config
from pipeline.storage.store import Store

EVIL = '<script>alert("&")</script>'
VOID = {"meta", "img"}


class Page(HTMLParser):
    """The elements and words of a page; refuses one whose elements do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += f" {data}"


def shown(data: ReportData) -> str:
    return " ".join(Page(render_report(data)).words.split())


def test_the_totals_are_shown() -> None:
    words = shown(made_data())
    for expected in ("complete", "1,234,567", "98.7%", "encode 3.0", "probe/not_a_video 7", "16x13x60x90 9", "f00d"):
        assert expected in words
    assert "buckets: ['480x720']" in words


def test_samples_flow_into_what_became_of_them() -> None:
    words = shown(made_data())
    for part in ("1,234,550 with clips: 9 rows", "7 rejected", "5 filtered", "5 removed"):
        assert part in words


def test_the_limit_of_the_encoder_is_set_against_what_was_reached() -> None:
    words = shown(made_data())
    assert "3.00 clips a second on one device, were it never idle" in words
    assert "2.00 clips a second (66.7% of it)" in words


def test_a_reject_comes_with_examples_and_what_to_do() -> None:
    reject = {"key": "a/clip-7", "sample_index": 7, "window_index": 2, "detail": "begins with b'<html>'"}
    words = shown(made_data(examples={"probe/not_a_video": [reject]}))
    assert "a/clip-7:2 begins with b'<html>'" in words
    assert f"What to do: {ADVICE['probe/not_a_video']}" in words


def test_there_is_advice_for_every_reason_and_for_no_other() -> None:
    text = (ROOT / "docs" / "format.md").read_text().split("## Reasons of rejects\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    assert ADVICE.keys() == {"/".join(cell.strip(" `") for cell in row) for row in rows}


def test_the_mean_and_deviation_of_a_channel_are_shown() -> None:
    deviation = math.sqrt(20 / 4 - 2**2)
    assert f"0 2.0000 {deviation:.4f} -1.0000 5.0000" in shown(made_data())


def test_a_run_that_is_not_complete_says_so_and_how_to_go_on() -> None:
    words = shown(made_data(made_summary(shards_left=1200, shards_failed={"a": "ShardError: cut"})))
    assert "1,200 shards left. The same command goes on where the run stopped" in words
    assert "a ShardError: cut" in words


def test_throughput_is_shown_over_time_and_by_replica() -> None:
    history = {"began_unix_seconds": 0, "step_seconds": 10.0, "frames": {"0": [490, 980], "3": [0, 490, 490]}}
    text = render_report(made_data(history=(history,)))
    words = shown(made_data(history=(history,)))
    assert "Run of 1970-01-01 00:00 UTC: 2,450 frames in 30 s by 2 replicas" in words
    assert "replica 3" in words
    assert "147" in words, "the most frames a second of both together"
    assert text.count("<rect") > text.count("<rect", 0, text.index("Throughput"))


def test_clips_are_counted_by_length_and_source_and_captions_by_length() -> None:
    facts = ClipFacts(
        shards=1,
        clips=3,
        counts={"transfer": Counter({"bt709": 2, "smpte2084 (HDR)": 1})},
        frames=(49, 49, 81),
        caption_characters=(0, 10, 120),
        outliers=(("a/clip-1", "latent_absmax", 90.0, 4.0),),
    )
    texts = {"wan": {"captions": 9, "truncated": 2, "rejects_by_reason": {}} | dict.fromkeys(TEXT_COUNTS, 0)}
    words = shown(made_data(made_summary(texts=texts), clips=facts))
    for expected in ("3 clips of 1 of 2 shards", "49 2", "81 1", "smpte2084 (HDR) 1", "1 to 120 characters"):
        assert expected in words
    assert "captions cut off by wan 2 of 9" in words
    assert "a/clip-1 latent absmax 90 4" in words


TEXT_COUNTS = ("shards", "tokens", "rejects", "parts", "size_bytes")


def evil_data() -> Iterator[ReportData]:
    for changes in (
        {"rejects_by_reason": {EVIL: 1}},
        {"rows_by_bucket": {EVIL: 1}},
        {"seconds_by_stage": {EVIL: 1.0}},
        {"shards_failed": {EVIL: "words"}},
        {"shards_failed": {"a": EVIL}},
        {"parts_by_device": {EVIL: 1}},
        {"texts": {EVIL: {"captions": 0, "truncated": 0, "rejects_by_reason": {}} | dict.fromkeys(TEXT_COUNTS, 0)}},
    ):
        yield made_data(made_summary(**changes))
    for run in ({"fingerprint": EVIL}, {"config": {EVIL: 1}}, {"config": {"input": {"shards": [EVIL]}}}):
        yield made_data(run=RUN | run)
    yield made_data(run=RUN | {"identity": {"encoder": {"name": EVIL}}})
    yield made_data(run=RUN | {"versions": {"torch": EVIL}})
    yield made_data(root=EVIL)
    for key, detail in ((EVIL, "words"), ("a", EVIL)):
        reject = {"key": key, "window_index": -1, "detail": detail}
        yield made_data(examples={"probe/not_a_video": [reject]})
    yield made_data(clips=ClipFacts(1, 1, {"codec": Counter([EVIL])}))
    yield made_data(clips=ClipFacts(outliers=((EVIL, "latent_std", 1.0, 1.0),)))
    yield made_data(shown=(Shown("a", b"", EVIL),))
    yield made_data(history=({"began_unix_seconds": 0, "step_seconds": 1.0, "frames": {EVIL: [1]}},))


@pytest.mark.parametrize("data", list(evil_data()))
def test_what_users_name_is_text_and_never_markup(data: ReportData) -> None:
    page = Page(render_report(data))
    assert "script" not in page.elements
    assert EVIL in page.words


def test_the_report_is_one_file_without_scripts() -> None:
    data = made_data(shown=(Shown("a", b"jpeg", "latent"),))
    page = Page(render_report(data))
    assert not page.elements & {"script", "link", "iframe", "object"}
    assert [value for name, value in page.attributes if name == "src"] == ["data:image/jpeg;base64,anBlZw=="]
    assert not {name for name, _ in page.attributes if name.startswith("on")} | {"href"} & dict(page.attributes).keys()
    assert "url(" not in render_report(data)


def test_the_page_is_light_or_dark_fits_a_phone_and_prints() -> None:
    text = render_report(made_data())
    for needed in ("prefers-color-scheme: dark", "@media print", 'name="viewport"', "overflow-x: auto"):
        assert needed in text


def test_a_run_that_made_nothing_has_a_report_too() -> None:
    empty = made_summary(
        samples=0,
        samples_with_clips=0,
        rows=0,
        seconds_by_stage={},
        rejects_by_reason={},
        rows_by_bucket={},
        parts_by_device={},
        latent_statistics={},
        encoder_busy_fraction=None,
    )
    assert "n/a" in shown(made_data(empty))
    assert "encode 0.0" in shown(made_data(made_summary(seconds_by_stage={"encode": 0.0})))


def test_what_of_the_input_is_in_no_row_is_counted_by_name() -> None:
    words = shown(made_data())
    for counted in ("clips without a caption 4", "files not used: .srt 6", "replaced characters or cells 1"):
        assert counted in words


def test_clips_far_from_the_others_are_named() -> None:
    rows = [
        {"id": str(at), "latent_mean": at / 100, "latent_std": 1 + at / 100, "latent_absmax": 4.0} for at in range(30)
    ]
    assert outliers(rows) == []
    rows[7]["latent_mean"] = 50.0
    assert [(id_, name, value) for id_, name, value, _ in outliers(rows)] == [("7", "latent_mean", 50.0)]


def test_the_values_of_a_channel_are_counted_around_its_mean() -> None:
    counts = histograms([made_latent(1), made_latent(2, TALL)])
    assert len(counts) == WIDE[0]
    assert all(sum(row) == 2 * math.prod(WIDE[1:]) for row in counts)
    assert histograms([]) == ()


def test_examples_are_the_first_of_each_reason(tmp_path: Path) -> None:
    store, examples = Store(str(tmp_path)), Examples()
    assert len(list(examples.of(commit_shard(store, name) for name in ("a", "b")))) == 2
    assert examples.shards == ["a", "b"]
    assert [one["key"] for one in examples.by_code["clip/too_short"]] == ["a/clip-002", "a/clip-003", "a/clip-004"]


def test_some_shards_of_many_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, names = Store(str(tmp_path)), [f"s{at}" for at in range(5)]
    monkeypatch.setattr(gathering, "SHARDS_READ", 2)
    monkeypatch.setattr(gathering, "read_index", lambda store, shard, columns: pa.table({}))
    assert clip_facts(store, names).shards == 2


@pytest.fixture
def finished(make_config: MakeConfig, tmp_path: Path, videos: tuple[bytes, ...], tiny: VideoEncoder) -> Store:
    """A run in this process, one caption of which is hostile."""
    files = [(name, EVIL.encode() if name.endswith("1.txt") else data) for name, data in samples_of(videos[:3])]
    write_tar(tmp_path / "s.tar", [*files, ("clip-bad.mp4", b"<html>")])
    config = make_config()
    run_all(config, tiny)
    store, values = Store(config.output.path), identity(config, tiny.weights_sha256)
    run: RunFile = {
        "format_version": 2,
        "fingerprint": fingerprint(values),
        "identity": values,
        "config": public_config(config),
        "versions": {},
        "created_unix_seconds": 0,
    }
    store.create("run.json", json.dumps(run).encode())
    return store


def pictures_of(store: Store, pictures: Pictures) -> tuple[str, bytes]:
    refresh_report(store, pictures)
    text = store.read("report.html")
    return " ".join(Page(text.decode()).words.split()), text


def test_the_report_of_a_run_shows_its_clips_and_is_the_same_each_time(finished: Store) -> None:
    words, text = pictures_of(finished, LATENTS_ALONE)
    assert "3 clips of 1 of 1 shards" in words
    assert "clip-bad begins with" in words
    assert "clip-000: latent" in words
    assert "characters" in words
    assert EVIL.encode() not in text
    assert pictures_of(finished, LATENTS_ALONE)[1] == text


def test_frames_of_the_source_stand_above_the_latent_while_the_source_is_there(finished: Store, tmp_path: Path) -> None:
    assert "source frames above the latent" in pictures_of(finished, Pictures(clips=1))[0]
    (tmp_path / "s.tar").unlink()
    assert "the latent alone: " in pictures_of(finished, Pictures(clips=1))[0]


def test_a_clip_of_many_frames_is_shown_without_them(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "FRAMES_DECODED", 4)
    assert "the latent alone: 5 frames are too many" in pictures_of(finished, Pictures(clips=1))[0]


def test_a_latent_that_is_decoded_comes_with_its_psnr(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Decoder:
        def decode(self, latent: Any) -> Any:
            return gathering.np.zeros((5, 32, 48, 3), "uint8")

    monkeypatch.setattr(gathering, "load_decoder", lambda config, vae: Decoder())
    words, _ = pictures_of(finished, Pictures(clips=1, decode=True))
    assert "source frames, latent, decoded frames: PSNR " in words


def test_a_damaged_part_does_not_keep_the_report_from_being_written(finished: Store) -> None:
    for part in Path(finished.root).rglob("*.parquet"):
        part.write_bytes(part.read_bytes()[:100])
    words = pictures_of(finished, LATENTS_ALONE)[0]
    assert "Pictures" not in words
    assert "16x2x4x6 2" in words, "what manifests say is shown all the same"


def test_a_root_is_named_without_its_secrets(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "root", f"file://user:secret@{finished.root}")
    assert "secret" not in gather(finished, made_summary(), RUN, Examples(), LATENTS_ALONE).root  # type: ignore[arg-type]


def test_gathered_data_hold_what_the_page_shows(finished: Store) -> None:
    data = gather(finished, made_summary(), RUN, Examples(), LATENTS_ALONE)  # type: ignore[arg-type]
    assert (data.root, data.latents, len(data.histograms)) == (finished.root, 2, 16)
    assert replace(data, shown=()).shown == ()
