"""Videos and images in one run: each kind has its buckets, every sample is accounted for, readers tell them apart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.clips import SPEC, clip_of, header_at, header_of
from support.images import FORMATS, animated, drawn, file_of
from support.runs import MakeConfig, configured, run_all, run_json, write_tar

from encoder.video_encoder import VideoEncoder
from jobs.cli import main
from pipeline.audit.reencode import frames_of, reencode
from pipeline.audit.show import find_row
from pipeline.audit.verify import Verified, verify
from pipeline.clips.continuous import rows_of
from pipeline.clips.plan import ClipRules, plan_clips, plan_spans
from pipeline.config.load import Config
from pipeline.dataset.loader import Latents
from pipeline.errors import SampleError
from pipeline.output.latent_bytes import latent_of
from pipeline.records import Span, VideoHeader
from pipeline.storage.store import Store

RULES = ClipRules(SPEC, chunk_frames=8, images=True)
MIXED = {"frames": 5, "buckets": ["32x48", "48x32", "64x96x1", "32x32x1"]}
IMAGES = ["jpg", "png", "webp", "avif"]


def image_header(width_px: int = 640, height_px: int = 480) -> VideoHeader:
    header = header_at([0.0], width_px, height_px)
    return VideoHeader(
        "png", "png", header.width_px, header.height_px, 1.0, 0, header.pts_seconds, 0.0, media_type="image"
    )


def test_buckets_of_one_frame_are_for_images_and_the_others_for_videos() -> None:
    clip = clip_of(frames=9, fps=8, buckets=["96x160", "96x96x1", "96x160x1", "96x96x17"])
    for header, size, frames, fps in (
        (image_header(480), (96, 96), 1, 1.0),
        (image_header(800), (96, 160), 1, 1.0),
        (header_of(100, width_px=480), (96, 96), 17, 8.0),
        (header_of(100, width_px=800), (96, 160), 9, 8.0),
    ):
        (made,) = plan_clips(header, clip, RULES)
        assert ((made.geometry.height_px, made.geometry.width_px), made.frames, made.fps) == (size, frames, fps)
    with pytest.raises(SampleError, match="clip/too_short"):
        plan_clips(header_of(3), clip, RULES)
    with pytest.raises(SampleError, match="clip/no_bucket"):
        plan_clips(header_of(100), clip_of(buckets=["96x96x1"]), RULES)
    with pytest.raises(SampleError, match=r"clip/too_small: .* 96x96x1"):
        plan_clips(image_header(64, 64), clip, RULES)


def test_without_images_buckets_of_one_frame_are_those_of_short_videos() -> None:
    clip = clip_of(frames=9, fps=None, buckets=["96x160", "96x160x1"])
    rules = ClipRules(SPEC, chunk_frames=8)
    assert [plan_clips(header_of(frames), clip, rules)[0].frames for frames in (9, 8, 1)] == [9, 1, 1]


@pytest.mark.parametrize("window", ["head", "center", "full", "uniform:3", "slide:2"])
def test_an_image_is_one_clip_whatever_is_asked_of_videos(window: str) -> None:
    clip = clip_of(frames=9, window=window, tail="drop", buckets=["96x160", "96x160x1"])
    rules = ClipRules(SPEC, 8, spans=(Span(0, 1, "seconds"), Span(1, 2, "seconds")), images=True)
    (made,), refused = plan_spans(image_header(), clip, rules)
    assert (list(made.frame_indices), made.chunk_frames, made.window_index, refused) == ([0], (1,), 0, ())


def test_beside_continuous_rows_an_image_is_a_row_of_one_segment(tiny: VideoEncoder) -> None:
    clip = clip_of(frames=9, window="full", tail="drop", continuous=True, segments=3, buckets=["96x160", "96x160x1"])
    rows = []
    for segment in range(3):
        clips, _ = plan_spans(
            image_header(), clip, ClipRules(tiny.spec, 8, None, segment, tiny.receptive_field, images=True)
        )
        rows += [row for one in clips for row, _ in rows_of(one)]
    assert [(row.frames, row.continues, row.window_index) for row in rows] == [(1, False, 0)]


@pytest.fixture(scope="module")
def files(videos: tuple[bytes, ...]) -> list[tuple[str, bytes]]:
    """Three videos, one of them with a thumbnail; five images in four formats; four samples that give no row."""
    made = [(f"video-{number}.mp4", video) for number, video in enumerate(videos[:3])]
    made.append(("video-1.jpg", file_of(drawn(), "jpeg")))
    names = dict(zip(FORMATS, IMAGES, strict=True))
    made += [(f"image-{names[format_]}.{names[format_]}", file_of(drawn(), format_)) for format_ in FORMATS]
    made += [("image-square.png", file_of(drawn(96, 96))), ("bad-cut.jpg", file_of(drawn(), "jpeg")[:-100])]
    made += [
        ("bad-moves.webp", animated("webp")),
        ("bad-two.png", b""),
        ("bad-two.jpg", b""),
        ("bad-tiny.png", file_of(drawn(16, 16))),
    ]
    made += [(f"{name.partition('.')[0]}.txt", f"caption of {name}".encode()) for name, _ in made if "jpg" not in name]
    return sorted(made)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, bytes]], tiny: VideoEncoder) -> Config:
    folder = tmp_path_factory.mktemp("mixed")
    write_tar(folder / "a.tar", files)
    output = {"path": str(folder / "out"), "dtype": "float32", "posterior": "mean"}
    config = configured(
        folder,
        input={"image": IMAGES, "shards": f"{folder}/*.tar"},
        clip=MIXED,
        filter={"min_seconds": 1},
        output=output,
    )
    run_all(config, tiny)
    identity = json.loads(run_json(config, tiny))
    values = {**identity, "config": config.model_dump(mode="json")}
    Store(config.output.path).create("run.json", json.dumps(values).encode())
    return config


def rows(config: Config) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in pq.read_table(f"{config.output.path}/latents").to_pylist()}


def test_a_run_gives_every_video_and_image_a_row_in_its_bucket_or_a_reject(mixed: Config) -> None:
    found = rows(mixed)
    kinds = {key: (row["media_type"], row["bucket"], row["num_frames"], row["fps"]) for key, row in found.items()}
    image = ("image", "16x1x8x12", 1, 1.0)
    assert kinds == {
        "video-0": ("video", "16x2x4x6", 5, 8.0),
        "video-1": ("video", "16x2x6x4", 5, 8.0),
        "video-2": ("video", "16x2x4x6", 5, 8.0),
        "image-avif": image,
        "image-jpg": image,
        "image-png": image,
        "image-webp": image,
        "image-square": ("image", "16x1x4x4", 1, 1.0),
    }
    assert found["image-webp"]["caption"] == "caption of image-webp.webp"
    assert found["video-1"]["file_name"] == "video-1.mp4"
    assert (found["image-jpg"]["codec"], found["image-jpg"]["source_width"]) == ("jpeg", 160)
    assert (found["image-jpg"]["pts_seconds"], found["image-jpg"]["start_seconds"]) == ([0.0], None)
    (manifest,) = (json.loads(path.read_text()) for path in Path(mixed.output.path).glob("manifests/*"))
    assert {reject["key"]: f"{reject['stage']}/{reject['reason']}" for reject in manifest["rejects"]} == {
        "bad-cut": "decode/damaged",
        "bad-moves": "probe/animated",
        "bad-two": "read/several_images",
        "bad-tiny": "clip/too_small",
    }
    assert (manifest["samples"], manifest["rows"], manifest["losses"]) == (12, 8, {"unused_file .jpg": 1})


def test_the_latent_of_an_image_is_that_of_its_one_frame(mixed: Config, tiny: VideoEncoder) -> None:
    store = Store(mixed.output.path)
    row, footer = find_row(store, "image-webp")
    frames = frames_of(store, row, footer)
    assert frames.shape == (1, 64, 96, 3)
    expected = tiny.encode(tiny.to_video(frames)).mean[0].numpy()
    assert np.abs(latent_of(row) - expected).max() < 1e-5
    assert np.abs(latent_of(rows(mixed)["image-png"]) - expected).max() == 0, "both hold the same pixels"


def test_a_mixed_run_is_verified_encoded_again_shown_and_reported(
    mixed: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, seen = Store(mixed.output.path), Verified()
    assert list(verify(store, seen)) == []
    assert (seen.rows, seen.samples, seen.rejects) == (8, 12, 4)
    again = list(reencode(store, 100))
    assert len(again) == 5, "of each part the first row"
    assert all(error < 1e-5 and problem is None for _, error, problem in again)
    file = tmp_path / "shown.png"
    assert main(["show", mixed.output.path, "image-avif", "--picture", str(file)]) == 0
    assert "media_type: image" in capsys.readouterr().out
    assert file.read_bytes().startswith(b"\x89PNG")
    assert main(["report", mixed.output.path]) == 0


def test_a_loader_gives_batches_of_videos_and_of_images(mixed: Config) -> None:
    assert main(["index", mixed.output.path]) == 0
    batches = list(Latents(mixed.output.path, batch=1, step_batches=1, scale=None))
    shapes = {key: tuple(map(int, row["bucket"].split("x"))) for key, row in rows(mixed).items()}
    assert {batch["id"][0].partition("/")[2]: tuple(batch["latent"].shape[1:]) for batch in batches} == shapes
    assert {batch["num_frames"][0] for batch in batches} == {1, 5}


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl"])
def test_rows_of_a_table_may_be_videos_or_images(
    name: str, tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    contents = [videos[0], file_of(drawn(), "jpeg"), file_of(drawn(96, 96))]
    named = [("a.mp4", [[0, 1]]), ("b.jpg", None), ("c.png", None)]
    for (file, _), content in zip(named, contents, strict=True):
        (tmp_path / file).write_bytes(content)
    table = [{"id": file[0], "file": file, "spans": spans} for file, spans in named]
    if name == "t.parquet":
        pq.write_table(pa.Table.from_pylist(table), tmp_path / name)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in table))
    source = {"table": {"files": str(tmp_path / name), "video": "file", "key": "id"}}
    config = make_config(input={"shards": None, **source, "spans": "json:spans", "image": IMAGES}, clip=MIXED)
    run_all(config, tiny)
    kinds = {key: (row["media_type"], row["num_frames"]) for key, row in rows(config).items()}
    assert kinds == {"a": ("video", 5), "b": ("image", 1), "c": ("image", 1)}


def test_bytes_in_a_table_are_told_by_what_they_are(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    contents = [videos[0], file_of(drawn(), "webp")]
    pq.write_table(pa.table({"data": pa.array(contents, pa.binary())}), tmp_path / "t.parquet")
    table = {"files": str(tmp_path / "t.parquet"), "video": "data"}
    config = make_config(input={"shards": None, "table": table, "image": "webp"}, clip=MIXED)
    run_all(config, tiny)
    assert sorted(row["media_type"] for row in rows(config).values()) == ["image", "video"]


def test_an_image_cannot_pass_for_a_video_where_images_are_not_asked_for(
    tmp_path: Path, files: list[tuple[str, bytes]], make_config: MakeConfig, tiny: VideoEncoder
) -> None:
    write_tar(tmp_path / "a.tar", files)
    config = make_config(clip={"frames": 5, "buckets": ["32x48", "48x32"]})
    run_all(config, tiny)
    assert {key: row["media_type"] for key, row in rows(config).items()} == dict.fromkeys(
        ("video-0", "video-1", "video-2"), "video"
    )
