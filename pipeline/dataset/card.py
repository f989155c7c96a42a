"""README.md of an output root: a dataset card, with which the hub's viewer and `load_dataset(OUT)` read the latents."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.dataset.statistics import write_statistics
from pipeline.output.manifests import Manifest
from pipeline.output.parts import read_footer
from pipeline.output.paths import CARD_FILE, INDEX, LATENTS, bucket_path
from pipeline.output.run_file import RunFile
from pipeline.storage.store import Store

OURS, YOURS = ("license", "pretty_name"), "<!-- What stands below this line is kept when the card is written again. -->"


def describe_dataset(store: Store, run: RunFile, manifests: Sequence[Manifest]) -> None:
    """Writes statistics.json and the card anew, from the manifests of the finished shards."""
    write_statistics(store, run["identity"].get("output", {}).get("posterior", "moments"), manifests)
    write_card(store, run, manifests)


def write_card(store: Store, run: RunFile, manifests: Sequence[Manifest]) -> None:
    """Writes README.md anew; the user's licence, name and text are kept."""
    before = store.read(CARD_FILE).decode() if store.exists(CARD_FILE) else ""
    rows: dict[str, int] = {}
    for part in (part for manifest in manifests for part in manifest["parts"]):
        rows[part["bucket"]] = rows.get(part["bucket"], 0) + part["rows"]
    head = yaml.safe_dump(_kept(before) | front_matter(rows), sort_keys=False)
    body = _body(run, manifests, dict(sorted(rows.items())), _scaling(store, manifests))
    text = f"---\n{head}---\n{body}\n{YOURS}\n"
    store.replace(CARD_FILE, (text + before.partition(f"{YOURS}\n")[2]).encode())


def front_matter(rows: Mapping[str, int]) -> dict[str, Any]:
    """What tells readers which files are rows: all of them, those of one bucket, or the index."""
    if not rows:
        return {"tags": ["video", "latents"]}
    files = {
        "default": f"{LATENTS}/*/*.parquet",
        **{bucket: f"{bucket_path(bucket)}/*.parquet" for bucket in sorted(rows)},
        "index": f"{INDEX}/*.parquet",
    }
    configs = [{"config_name": name, "data_files": [{"split": "train", "path": path}]} for name, path in files.items()]
    return {"tags": ["video", "latents"], "configs": configs}


def scaling_text(rule: Mapping[str, Any] | None) -> str:
    """What a reader does to a latent before training, with its numbers."""
    if rule is None:
        return "The weights do not say how latents are scaled before training."
    shift, scale, image_scale = (_numbers(rule[name]) for name in ("shift", "scale", "image_scale"))
    of_image = "" if image_scale == scale else f" For the latent of a first frame `scale` is {image_scale}."
    return (
        f"Before training: `{rule['formula']}` with `shift` {shift} and `scale` {scale}, reshaped to "
        f"{tuple(rule['shape'])}.{of_image} The footer of each file has this too, as `encoder.scaling`."
    )


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:.9g}" if len(values) == 1 else f"[{', '.join(f'{value:.6g}' for value in values)}]"


def _kept(before: str) -> dict[str, Any]:
    """The keys of an earlier card that are the user's."""
    if not before.startswith("---\n"):
        return {}
    values = yaml.safe_load(before.split("---\n")[1]) or {}
    return {key: values[key] for key in OURS if key in values}


def _scaling(store: Store, manifests: Sequence[Manifest]) -> Mapping[str, Any] | None:
    """The rule in the footer of the first part, which all parts of a run share."""
    paths = (part["path"] for manifest in manifests for part in manifest["parts"])
    if (first := next(paths, None)) is None:
        return None
    with store.open(first) as file:
        rule: Mapping[str, Any] | None = read_footer(file)["encoder"].get("scaling")
    return rule


def _body(run: RunFile, manifests: Sequence[Manifest], rows: Mapping[str, int], scaling: Any) -> str:
    encoder, output = (run["identity"].get(section, {}) for section in ("encoder", "output"))
    samples = sum(manifest["samples"] for manifest in manifests)
    lines = [
        "# Video latents",
        f"{sum(rows.values()):,} latents of {samples:,} samples from {len(manifests):,} shards, made by Latentmill.",
        "",
        f"- Encoder: {encoder.get('name', 'unknown')}, weights sha256 `{encoder.get('weights_sha256', 'unknown')}`",
        f"- Stored: posterior {output.get('posterior')}, {output.get('dtype')}, image latent "
        f"{output.get('image_latent')}; fingerprint `{run['fingerprint']}`",
        "- Latents are row-major `c t h w` and **unscaled**; `statistics.json` has mean and standard deviation of each",
        "  channel. " + scaling_text(scaling),
        "- `vae_latent_bytes`, `_shape` and `_dtype` hold the latent; `id` is unique, `key` is the sample's own;",
        "  `caption` and the other columns describe the clip.",
        "",
        "| bucket (c x t x h x w) | rows |",
        "|---|---|",
        *(f"| {bucket} | {count:,} |" for bucket, count in rows.items()),
        "",
        "Rules that chose and cut the clips:",
        "```json",
        json.dumps(run["identity"].get("clip", {}), sort_keys=True),
        "```",
        "The licence of the videos decides that of their latents: state it as `license:` above.",
        "",
    ]
    return "\n".join(lines)
