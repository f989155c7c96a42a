"""Finished runs with texts, made up in this process, and their exports."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from encoder import TextEncoder
from encoder.text.preset_encoder import EncodedText
from pipeline.config.load import Config
from pipeline.dataset.export.exporting import Export, Wish, prepare_export
from pipeline.output.manifests import Manifest
from pipeline.output.paths import SUCCESS_FILE, done_shards
from pipeline.output.slice_writer import SliceWriter
from pipeline.records import Geometry, Row
from pipeline.storage.store import Store
from pipeline.text.manifests import read_text_manifest, totals_of
from support.makers import PART_SAMPLES, Shape, commit_run, made_ledger, made_row, made_sample
from support.runs import configured
from support.text_runs import MOST_TOKENS, MadeUp, embed_all, task_of, with_text

ONE: Shape = (2, 3, 4, 6)  # of a clip of 9 frames of 32x48 pixels, at 4x8x8
TURNED: Shape = (2, 3, 6, 4)
SHARDS = ("a.v1_x", "b")  # a dot and an underscore, which some readers take names apart at
CAPTIONS = ("a cat", "two dogs run", "one  two\nthree", "schön 🐈")
SHIFT, STD, FACTOR = (0.5, -0.25), (2.0, 0.5), 1.15258426


def _rule(shift: Sequence[float], scale: Sequence[float]) -> dict[str, Any]:
    values = {"shift": list(shift), "scale": list(scale), "image_scale": list(scale)}
    return {"formula": "(z - shift) * scale", "shape": [len(scale), 1, 1, 1], **values}


ENCODERS = {
    "wan": _rule(SHIFT, [1 / std for std in STD]),
    "cogvideox": _rule([0.0], [FACTOR]),
    "tiny": _rule([0.0], [1.0]),
}
ENCODERS["ltx"] = ENCODERS["wan"]


def export_row(
    shard: str, sample: int, window: int = 0, shape: Shape = ONE, caption: str | None = None, frames: int = 9
) -> Row:
    """A row whose values and caption follow from its place."""
    texts = (CAPTIONS[sample % len(CAPTIONS)] if caption is None else caption,)
    height, width = 8 * shape[2], 8 * shape[3]
    row = made_row(sample, window, shape, sample=made_sample(sample, captions=texts))
    geometry = Geometry(width, height, 0, 0, width, height)
    clip = replace(row.clip, geometry=geometry, frame_indices=range(frames))
    return replace(row, clip=clip, id=f"{shard}/{row.sample.key}:{window}")


def rows_of(shard: str, shapes: Sequence[Shape]) -> list[Row]:
    """A row for each shape, and a second window of the first sample."""
    rows = [export_row(shard, sample, 0, shape) for sample, shape in enumerate(shapes)]
    return [rows[0], export_row(shard, 0, 1, shapes[0]), *rows[1:]]


def made_run(root: Path, encoder: str, shapes: Sequence[Shape] = (ONE,) * 4, posterior: str = "moments") -> Config:
    """Two shards of rows of an encoder, in slices of three samples, without texts."""
    config = configured(root)
    store = commit_run(Path(config.output.path), ["/data/*.tar"])
    for name in SHARDS:
        write_shard(store, name, rows_of(name, shapes), encoder, posterior)
    store.create(SUCCESS_FILE, b'{"shards": 2}')
    return config


def write_shard(store: Store, name: str, rows: Sequence[Row], encoder: str, posterior: str = "moments") -> Manifest:
    ledger = made_ledger(store, name, f"/data/{name}.tar")
    described = {"encoder": {"name": encoder, "scaling": ENCODERS[encoder]}, "posterior": posterior}
    ledger = replace(ledger, description=dict(ledger.description) | described)
    slices = []
    for index in range(-(-(rows[-1].sample.index + 1) // PART_SAMPLES)):
        writer = SliceWriter(ledger, index, index * PART_SAMPLES, posterior, "float32")
        inside = [row for row in rows if row.sample.index // PART_SAMPLES == index]
        for sample in {row.sample.index: row.sample for row in inside}.values():
            writer.counts.add(sample)
        for row in inside:
            writer.add(row if posterior == "moments" else replace(row, logvar=None))
        slices.append(writer.commit())
    return ledger.commit_manifest(slices, {})


class Padded(MadeUp):
    """As CogVideoX's rules are: every caption has all rows."""

    def __call__(self, captions: Sequence[str]) -> list[EncodedText]:
        return [
            replace(one, arrays={"text_embedding": _full(one.arrays["text_embedding"])})
            for one in super().__call__(captions)
        ]


def _full(rows: Any) -> Any:
    return np.concatenate([rows, np.full((MOST_TOKENS - len(rows), rows.shape[1]), 0.5, np.float32)])


def with_texts(config: Config, preset: str = "wan") -> Config:
    """The same run with texts of a preset's rules under its name."""
    config = with_text(config, preset=preset)
    trim = preset == "wan"
    identity = {"preset": {"name": preset, "max_tokens": MOST_TOKENS, "trim": trim}, "dtype": "float32"}
    task = task_of(config, preset, TextEncoder(MadeUp() if trim else Padded(), identity, {"device": "made up"}))
    embed_all(config, preset, task)
    shards = sorted(done_shards(Store(config.output.path)))
    totals = totals_of([read_text_manifest(task.store, name) for name in shards])
    task.store.create(SUCCESS_FILE, json.dumps(totals).encode())
    return config


def prepared(config: Config, into: Path, target: str, **wish: Any) -> Export:
    return prepare_export(Store(config.output.path), Store(str(into)), Wish(target, **wish))


def exported(config: Config, into: Path, target: str, **wish: Any) -> Export:
    export = prepared(config, into, target, **wish)
    export.run(lambda done, of: None)
    return export


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def all_rows(shapes: Sequence[Shape]) -> list[tuple[str, Row]]:
    """(shard, row) of a run of these shapes, in the order of an export: by shape, then by shard."""
    rows = [(shard, row) for shard in SHARDS for row in rows_of(shard, shapes)]
    return sorted(rows, key=lambda one: one[1].latent.shape)


def name_of(shard: str, row: Row) -> str:
    return f"{shard.replace('.', '_')}-{row.sample.index:06d}-{row.clip.window_index:03d}"


def scaled_by_hand(row: Row) -> Any:
    """Wan's formula, a channel at a time."""
    return np.stack([(row.latent[channel] - SHIFT[channel]) / STD[channel] for channel in range(2)])
