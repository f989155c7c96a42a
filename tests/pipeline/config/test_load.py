"""A configuration is what the user wrote and nothing else, and its fingerprint changes with what changes latents."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from support.paths import ROOT
from support.runs import MakeConfig

from pipeline.config.identity import describe, differing_fields, fingerprint, identity, run_name
from pipeline.config.load import Config, apply_overrides, load_config, parse_config, recorded_config
from pipeline.errors import ConfigError, UserError

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
TREE: dict[str, Any] = {
    "input": {"shards": "a.tar"},
    "output": {"path": "out"},
    "encoder": {"weights": "random:0"},
}


def tree_with(dotted: str, value: object) -> dict[str, Any]:
    tree = copy.deepcopy(TREE)
    section, _, key = dotted.partition(".")
    tree.setdefault(section, {})[key] = value
    return tree


def config_with(dotted: str, value: object) -> Config:
    return parse_config(tree_with(dotted, value))


def value_of(config: Config, dotted: str) -> object:
    section, _, key = dotted.partition(".")
    return getattr(getattr(config, section), key)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def test_the_smallest_configuration_has_the_documented_defaults() -> None:
    config = parse_config(TREE)
    assert config.input.shards == ("a.tar",)
    assert config.input.caption == ("txt", "json:caption")
    assert (config.output.posterior, config.output.dtype, config.output.part_samples) == ("moments", "float16", 64)
    assert (config.clip.frames, config.clip.fps, config.clip.window, config.clip.tail) == (49, 8.0, "head", "trim")
    assert config.clip.bucket_sizes_px == ((480, 720), (720, 480), (480, 480))
    assert (config.encoder.name, config.encoder.dtype, config.encoder.chunk_frames) == ("cogvideox", "bfloat16", 8)
    assert (config.runtime.replicas, config.runtime.address) == ("auto", None)
    assert (config.limits.max_reject_fraction, config.limits.max_attempts) == (0.05, 3)


@pytest.mark.parametrize("shipped", CONFIGS, ids=lambda path: path.stem)
def test_the_configurations_that_we_ship_are_legal(shipped: Path) -> None:
    assert load_config(str(shipped)).output.path


@pytest.mark.parametrize(
    ("dotted", "value", "expected"),
    [
        ("input.shards", ["a.tar", "b.tar"], ("a.tar", "b.tar")),
        ("input.video", "mp4", ("mp4",)),
        ("clip.frames", "full", "full"),
        ("clip.frames", 1, 1),
        ("clip.fps", None, None),
        ("clip.fps", 16, 16.0),
        ("clip.window", "uniform:3", "uniform:3"),
        ("clip.window", "slide:10", "slide:10"),
        ("clip.buckets", ["96x160"], ("96x160",)),
        ("runtime.replicas", 4, 4),
        ("limits.max_reject_fraction", 1, 1.0),
    ],
)
def test_a_value_is_taken(dotted: str, value: object, expected: object) -> None:
    assert value_of(config_with(dotted, value), dotted) == expected


@pytest.mark.parametrize(
    ("dotted", "near"),
    [
        ("clip.frame", "unknown key clip.frame, did you mean frames?"),
        ("outptu.path", "unknown key outptu, did you mean output?"),
        ("limits.max_rejects", "unknown key limits.max_rejects, did you mean max_reject_fraction?"),
        (
            "runtime.xyz",
            "unknown key runtime.xyz; known here: address, ahead_bytes, device, log, logs, mixed_gpus, replicas",
        ),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(dotted: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_with(dotted, 1)
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("dotted", "value", "message"),
    [
        ("input.shards", [], "input: give either shards .* or table .*: got neither"),
        ("input.shards", None, "input: give either shards .*: got neither"),
        ("input.table", {"files": "a.csv", "video": "url"}, "input: give either shards .*: got both"),
        ("input.table", {"files": [], "video": "url"}, "input.table.files: .*at least 1"),
        ("input.table", {"files": "a.csv"}, "input.table.video is missing"),
        ("input.table", {"files": "a", "video": "v", "keys": "k"}, "unknown key input.table.keys, did you mean key?"),
        ("input.strict", "maybe", r"input.strict: .*got 'maybe'"),
        ("output.path", "", "output.path: .*at least 1"),
        ("output.path", None, r"output.path: .*got None"),
        ("output.posterior", "guess", "output.posterior: .*'moments'"),
        ("output.dtype", "float8", "output.dtype: .*'float32', 'bfloat16' or 'float16'.*got 'float8'"),
        ("output.part_samples", 0, r"output.part_samples: .*got 0"),
        ("clip.frames", 0, "clip.frames: 0 frames are too few: give 1 or more, or full"),
        ("clip.frames", 1.5, r"clip.frames.*got 1\.5"),
        ("clip.frames", "all", "clip.frames.*'full'.*got 'all'"),
        ("clip.fps", 0, "clip.fps: .*greater than 0"),
        ("clip.fps", float("inf"), "clip.fps: .*finite"),
        ("clip.fps", float("nan"), "clip.fps: .*finite"),
        (
            "clip.window",
            "tail",
            "clip.window: unknown window 'tail': use head, center, full, uniform:N or slide:STRIDE",
        ),
        ("clip.window", "uniform:0", "clip.window: unknown window 'uniform:0'"),
        ("clip.window", "slide", "clip.window: unknown window 'slide'"),
        ("clip.tail", "pad", "clip.tail: .*'trim', 'drop' or 'error'"),
        ("clip.buckets", ["480p"], "clip.buckets: cannot read bucket '480p': write HEIGHTxWIDTH"),
        ("clip.buckets", ["0x8"], "clip.buckets: cannot read bucket '0x8'"),
        ("clip.buckets", ["8x8", "8x8"], "clip.buckets: bucket 8x8 is listed twice"),
        ("clip.buckets", [], "clip.buckets: .*at least 1"),
        ("encoder.dtype", "int8", "encoder.dtype: "),
        ("encoder.chunk_frames", 0, "encoder.chunk_frames: "),
        ("encoder.batch_clips", 2, "encoder.batch_clips was removed: leave it out"),
        ("runtime.cuda_graphs", True, "runtime.cuda_graphs was removed: leave it out"),
        ("runtime.replicas", 0, "runtime.replicas: cannot use 0 replicas: write auto"),
        ("limits.max_reject_fraction", 1.5, "limits.max_reject_fraction: .*1.5"),
        ("limits.decode_timeout_seconds", 0, "limits.decode_timeout_seconds: .*greater than 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(dotted: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_with(dotted, value)


def test_everything_wrong_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"clip": {"fps": -1, "color": "red"}, "output": 5}, source="some.yaml")
    for part in ("some.yaml: ", "clip.fps", "clip.color", "output", "input is missing", "encoder is missing"):
        assert part in str(caught.value)


@pytest.mark.parametrize("window", ["center", "uniform:2", "slide:8"])
def test_a_whole_video_has_no_windows(window: str) -> None:
    with pytest.raises(ConfigError, match=f"frames: full .* window: {window} contradicts"):
        parse_config({**TREE, "clip": {"frames": "full", "window": window}})
    assert parse_config({**TREE, "clip": {"frames": "full", "window": "full"}}).clip.whole_video
    assert config_with("clip.window", "full").clip.whole_video
    assert not config_with("clip.window", window).clip.whole_video


def test_a_configuration_cannot_be_changed() -> None:
    config = parse_config(TREE)
    with pytest.raises(ValidationError, match="frozen"):
        config.clip.frames = 5  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.clip = config.clip  # type: ignore[misc]


def test_overrides_are_read_as_yaml_and_leave_the_rest() -> None:
    overrides = ["clip.fps=16", "clip.buckets=[96x160, 160x96]", "output.path=s3://b/x=y", "runtime.address=null"]
    assert apply_overrides(TREE, overrides) == {
        **TREE,
        "output": {"path": "s3://b/x=y"},
        "clip": {"fps": 16, "buckets": ["96x160", "160x96"]},
        "runtime": {"address": None},
    }
    assert (TREE["output"], "clip" in TREE) == ({"path": "out"}, False)


def test_the_last_override_of_a_key_counts() -> None:
    assert apply_overrides(TREE, ["clip.fps=1", "clip.fps=2"])["clip"] == {"fps": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clip.fps", "cannot read override 'clip.fps': write section.key=value"),
        ("=1", "cannot read override '=1'"),
        ("clip..fps=1", "cannot read override 'clip..fps=1'"),
        (".fps=1", "cannot read override '.fps=1'"),
        ("input.shards.first=1", "cannot set input.shards.first: shards is a value without keys below it"),
        ("clip.buckets=[96x160", r"clip.buckets=\[96x160 is not YAML"),
        ("output.path=2024-13-45", "output.path=2024-13-45 is not YAML: month must be in"),
        ("clip.fps=!!python/object:os.system x", "is not YAML: could not determine a constructor"),
    ],
)
def test_an_override_that_cannot_be_read_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides(TREE, [override])


def test_values_are_replaced_at_dotted_keys_and_checked_as_those_of_a_file_are() -> None:
    config = parse_config(TREE)
    changed = config.replaced({"clip.fps": 16, "runtime.replicas": {"min": 1, "max": 2}})
    assert changed == parse_config({**TREE, "clip": {"fps": 16}, "runtime": {"replicas": {"min": 1, "max": 2}}})
    assert config == parse_config(TREE)
    assert changed.replaced({}) == changed
    with pytest.raises(ConfigError, match=r"unknown key clip\.frame, did you mean frames\?"):
        config.replaced({"clip.frame": 5})


def test_a_file_is_read_with_its_overrides(path: Path) -> None:
    path.write_text(yaml.safe_dump(TREE))
    assert load_config(str(path)) == parse_config(TREE)
    assert load_config(str(path), ["clip.fps=16"]) == config_with("clip.fps", 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no sections; it needs at least input, output and encoder"),
        (b"- input", "has no sections"),
        (b"input: [", "is not YAML: .*line 1"),
        (b"\xff\xff", "is not YAML"),
        (b"a: \0", "is not YAML"),
        (b"date: 2024-13-45", "is not YAML: month must be in"),
        pytest.param(b"[" * 1000, "is not YAML", id="too deep"),
        (b"clip: {fps: 8}\nclip: {frames: 5}", "duplicate key clip"),
        (b"clip: {fps: 8, fps: 16}", "duplicate key fps"),
        (b"input: !!python/object/apply:os.mkdir [made]", "is not YAML: could not determine a constructor"),
        (b"input: &a {shards: *a}", "input.shards"),
        (b"1: 2", "1: Keys should be strings"),
        (b"input:\noutput: {path: out}\nencoder: {weights: w}", "input: .*got None"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_named(
    path: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(str(path))
    assert str(path) in str(caught.value)
    assert list(path.parent.iterdir()) == [path]


def test_yaml_may_merge_a_section_into_another(path: Path) -> None:
    path.write_text("x: &x {weights: w, dtype: float32}\ninput: {shards: a}\noutput: {path: o}\nencoder: {<<: *x}")
    with pytest.raises(ConfigError, match="unknown key x") as caught:
        load_config(str(path))
    assert "encoder" not in str(caught.value).partition(";")[0]


@pytest.mark.parametrize("name", ["nothing.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"cannot read the configuration {tmp_path}"):
        load_config(str(tmp_path / name))


IDENTITY_VALUES = {
    "input.video": ["mp4"],
    "input.caption": ["json:text"],
    "input.columns": {"score": "json:score:float"},
    "input.spans": "json:spans",
    "input.spans_unit": "frames",
    "input.strict": True,
    "filter.min_seconds": 1,
    "filter.min_short_side_px": 64,
    "filter.min_fps": 8,
    "filter.where": "score > 5",
    "filter.video": "codec == 'h264'",
    "output.posterior": "mean",
    "output.seed": 1,
    "output.image_latent": "first_frame",
    "output.dtype": "float32",
    "output.part_samples": 8,
    "clip.frames": 17,
    "clip.fps": None,
    "clip.window": "center",
    "clip.tail": "drop",
    "clip.hdr": "tonemap",
    "clip.deinterlace": True,
    "clip.buckets": ["720x480", "480x720", "480x480"],
    "clip.upscale": True,
    "encoder.name": "tiny",
    "encoder.dtype": "float32",
    "encoder.chunk_frames": 16,
    "encoder.chunk_plan": "even",
    "encoder.norm_scope": "frame",
    "encoder.tiles": [240, 360, 200, 288],
    "encoder.convolutions": "winograd",
    "encoder.scaling_factor": 0.7,
}
WHOLE = {"window": "full", "frames": 49}
CONTINUOUS_VALUES = {
    "clip.continuous": {**WHOLE, "continuous": True},
    "clip.segments": {**WHOLE, "continuous": True, "segments": 2},
}
OTHER_VALUES = {
    "input.shards": "b.tar",
    "output.path": "elsewhere",
    "encoder.weights": "/the/same/under/another/name",
    "runtime.replicas": 3,
    "runtime.address": "auto",
    "runtime.ahead_bytes": 9,
    "limits.max_reject_fraction": 0.5,
    "limits.decode_timeout_seconds": 5,
    "limits.max_attempts": 1,
    "limits.max_video_bytes": 10,
}


def test_what_an_earlier_version_recorded_is_read_without_the_keys_that_were_removed() -> None:
    config = parse_config(TREE)
    recorded = config.model_dump(mode="json")
    recorded["encoder"] |= {"batch_clips": 1, "compile": False, "conv_tolerance": None}
    recorded["runtime"] |= {"cuda_graphs": False}
    assert recorded_config({"config": recorded}) == config


def fingerprint_of(config: Config, weights_sha256: str = "0" * 64) -> str:
    return fingerprint(identity(config, weights_sha256))


def test_every_key_either_changes_latents_or_does_not() -> None:
    sections = parse_config(TREE).model_dump(exclude={"runtime", "limits", "text"})
    keys = {f"{section}.{key}" for section, values in sections.items() for key in values}
    assert (
        keys - OTHER_VALUES.keys() - {"input.table", "input.captions_of", "input.image"}
        == IDENTITY_VALUES.keys() | CONTINUOUS_VALUES.keys()
    )


def test_the_fingerprint_changes_with_what_has_the_captions() -> None:
    prints = {
        fingerprint_of(parse_config(TREE | {"input": {**TREE["input"], "spans": "json:spans", "captions_of": of}}))
        for of in ("sample", "span")
    }
    assert len(prints) == 2


def test_the_fingerprint_changes_with_how_a_table_is_read_and_not_with_where_it_lies() -> None:
    def of_table(**values: object) -> str:
        table = {"files": "a.csv", "video": "url", "rows_per_shard": 10} | values
        return fingerprint_of(parse_config(TREE | {"input": {"table": table}}))

    assert of_table(files="b.csv") == of_table() != fingerprint_of(parse_config(TREE))
    others = (of_table(video="link"), of_table(key="id"), of_table(rows_per_shard=11))
    assert len({of_table(), *others}) == 4
    assert "table" not in identity(parse_config(TREE), "0" * 64)["input"], "today's fingerprints stay"


@pytest.mark.parametrize(("dotted", "clip"), CONTINUOUS_VALUES.items(), ids=CONTINUOUS_VALUES)
def test_the_fingerprint_changes_with_continuous_rows_and_has_no_key_for_them_otherwise(
    dotted: str, clip: dict[str, Any]
) -> None:
    ours, theirs = (identity(parse_config({**TREE, "clip": values}), "0" * 64) for values in (clip, WHOLE))
    assert fingerprint(ours) != fingerprint(theirs)
    assert dotted in [line.partition(":")[0] for line in differing_fields(theirs, ours)]
    assert theirs["clip"].keys() == {"frames", "fps", "window", "tail", "buckets", "upscale", "hdr", "deinterlace"}


@pytest.mark.parametrize(("dotted", "value"), IDENTITY_VALUES.items(), ids=IDENTITY_VALUES)
def test_the_fingerprint_changes_with_what_changes_latents(dotted: str, value: object) -> None:
    ours, theirs = (identity(config, "0" * 64) for config in (config_with(dotted, value), parse_config(TREE)))
    assert fingerprint(ours) != fingerprint(theirs)
    (line,) = differing_fields(theirs, ours)
    assert line.partition(":")[0].removesuffix(".score") == dotted


@pytest.mark.parametrize(("dotted", "value"), OTHER_VALUES.items(), ids=OTHER_VALUES)
def test_the_fingerprint_does_not_change_with_where_and_how_a_run_is_done(dotted: str, value: object) -> None:
    changed = config_with(dotted, value)
    assert changed != parse_config(TREE)
    assert fingerprint_of(changed) == fingerprint_of(parse_config(TREE))


def test_the_fingerprint_changes_with_the_weights() -> None:
    config = parse_config(TREE)
    assert fingerprint_of(config, "0" * 64) != fingerprint_of(config, "1" * 64)


def test_the_fingerprint_is_of_the_values_and_not_of_how_they_are_written() -> None:
    reordered = dict(reversed(TREE.items()))
    written_out = parse_config(TREE).model_dump()
    for tree in (reordered, written_out, {**TREE, "clip": {"fps": 8}}, {**TREE, "clip": {"fps": "8.0"}}):
        assert fingerprint_of(parse_config(tree)) == fingerprint_of(parse_config(TREE))


def test_fields_that_differ_are_named_with_both_values() -> None:
    theirs = {"same": 1, "clip": {"fps": 8.0, "buckets": ["a"]}, "gone": None, "old": True}
    ours = {"same": 1, "clip": {"fps": None, "buckets": ["b"]}, "new": {"x": 1}}
    assert differing_fields(theirs, ours) == [
        'clip.buckets: ["a"] there, ["b"] now',
        "clip.fps: 8.0 there, null now",
        'new: null there, {"x": 1} now',
        "old: true there, null now",
    ]
    assert differing_fields(ours, ours) == []


def test_a_list_of_shards_may_be_given_as_an_override() -> None:
    assert apply_overrides({}, ["input.shards=@list.txt"]) == {"input": {"shards": "@list.txt"}}


def test_runs_of_one_configuration_into_two_roots_have_two_names() -> None:
    one, other = run_name("0123456789abcdef", "s3://a/out"), run_name("0123456789abcdef", "s3://b/out")
    assert one != other
    assert one == run_name("0123456789abcdef", "s3://user:word@a/out?token=x")
    assert one.startswith("0123456789ab-")


def test_every_path_may_begin_at_home_or_hold_variables(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    config = make_config(
        input={"shards": ["~/a.tar", "${DATA}/b.tar", "@~/list"]},
        output={"path": "~/out"},
        encoder={"weights": "${DATA}/vae"},
    )
    assert config.input.shards == ("/home/me/a.tar", "/data/b.tar", "@/home/me/list")
    assert (config.output.path, config.encoder.weights) == ("/home/me/out", "/data/vae")
    table = make_config(input={"shards": None, "table": {"files": "${DATA}/t.csv", "video": "v"}}).input.table
    assert table is not None
    assert table.files == ("/data/t.csv",)


@pytest.mark.parametrize(
    "sections",
    [
        {"input": {"shards": "${NOT_SET}/a.tar"}},
        {"input": {"shards": None, "table": {"files": ["~/a.csv", "${NOT_SET}"], "video": "v"}}},
        {"output": {"path": "${NOT_SET}"}},
        {"encoder": {"weights": "${NOT_SET}/vae"}},
    ],
)
def test_a_path_with_a_variable_that_is_not_set_is_refused(sections: dict[str, Any], make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"uses \$\{NOT_SET\}, which is not set"):
        make_config(**sections)


def with_images(image: object = ("jpg", "png"), **clip: object) -> Config:
    buckets = {"buckets": ["480x720", "480x720x1"]}
    return parse_config({**TREE, "input": {**TREE["input"], "image": image}, "clip": {**buckets, **clip}})


def test_images_have_buckets_of_one_frame_beside_clips_and_whole_videos() -> None:
    assert with_images("jpg").input.image == ("jpg",)
    assert with_images().clip.one_frame_buckets == ("480x720x1",)
    assert with_images(frames="full").clip.bucket_frames == (None, 1)
    with pytest.raises(ConfigError, match=r"input\.image: .* such as 480x720x1"):
        with_images(buckets=["480x720", "720x480x17"])
    with pytest.raises(
        ConfigError, match=r"clip\.buckets: .* 480x720x1 is for images: take it out, or set input\.image"
    ):
        with_images((), frames="full")
    with pytest.raises(ConfigError, match="no fixed length: write buckets as HEIGHTxWIDTH"):
        with_images(frames="full", buckets=["480x720x17", "480x720x1"])


def test_an_extension_is_that_of_videos_or_of_images() -> None:
    with pytest.raises(ConfigError, match="input: gif in image is in video too"):
        with_images(["jpg", "gif"])
    with pytest.raises(ConfigError, match="did you mean image"):
        config_with("input.images", ["jpg"])


def test_images_change_the_fingerprint_and_their_absence_does_not() -> None:
    config = with_images(())
    assert "image" not in identity(config, "0" * 64)["input"]
    assert "images" not in describe(config, {"weights_sha256": "0" * 64})["preprocessing"]
    assert fingerprint_of(config) != fingerprint_of(with_images())
    assert "images" in describe(with_images(), {"weights_sha256": "0" * 64})["preprocessing"]
