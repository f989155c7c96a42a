"""Text embeddings of whole runs in this process, by a made-up encoder that needs no weights."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from encoder import TextEncoder
from encoder.text.preset_encoder import EncodedText
from pipeline.config.load import Config
from pipeline.monitor.events import Event
from pipeline.output.paths import SUCCESS_FILE, done_shards, index_path
from pipeline.output.run_file import RunFile, claim_run, read_run
from pipeline.output.slice_writer import SliceWriter
from pipeline.records import Row, Sample
from pipeline.run import public_config
from pipeline.storage.store import Store
from pipeline.text.load import text_identity
from pipeline.text.manifests import read_text_manifest, totals_of
from pipeline.text.task import FinishedShard, TextTask, text_task
from support.makers import PART_SAMPLES, TOO_SHORT, WIDE, Shape, commit_run, made_ledger, made_row, made_sample

WIDTH, MOST_TOKENS = 4, 8
IDENTITY = {"preset": {"name": "wan", "max_tokens": MOST_TOKENS, "trim": True}, "dtype": "float32"}
NOT_FINITE = "infinite"


def embedding_of(caption: str) -> Any:
    """A row for each word and one for the end, at most MOST_TOKENS, which follow from the words alone."""
    words = [*caption.split(), "</s>"][:MOST_TOKENS]
    seeds = [hashlib.sha256(word.encode()).digest()[:WIDTH] for word in words]
    rows = np.array([list(seed) for seed in seeds], np.float32)
    return rows * np.float32("inf") if caption == NOT_FINITE else rows


class MadeUp:
    """An encoder that remembers the captions that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, captions: Sequence[str]) -> list[EncodedText]:
        self.asked += captions
        counts = [len(caption.split()) + 1 for caption in captions]
        return [
            EncodedText({"text_embedding": embedding_of(caption)}, count, count > MOST_TOKENS)
            for caption, count in zip(captions, counts, strict=True)
        ]


def with_text(config: Config, **values: Any) -> Config:
    """The configuration with a section text; its encoder lies nowhere, as a made-up one is used."""
    text = {"encoder": "made-up", "preset": "wan", "dtype": "float32"} | values
    return config.replaced({"text": text})


def task_of(config: Config, name: str = "wan", encoder: TextEncoder | None = None) -> TextTask:
    """Makes the texts of a run that is there; run.json is created."""
    latents = Store(config.output.path)
    encoder = encoder or TextEncoder(MadeUp(), IDENTITY, {"device": "made up"})
    identity = text_identity(config.texts, encoder.identity, read_run(latents))
    task = text_task(config, name, identity, encoder)
    run: RunFile = {
        "format_version": identity["format_version"],
        "fingerprint": task.description["fingerprint"],
        "identity": identity,
        "config": public_config(config),
        "versions": {},
        "created_unix_seconds": 0,
    }
    claim_run(task.store, run)
    return task


def shards_of_run(config: Config) -> list[FinishedShard]:
    store = Store(config.output.path)
    return [FinishedShard(name, store.url(index_path(name))) for name in sorted(done_shards(store))]


def embed_all(config: Config, name: str = "wan", task: TextTask | None = None) -> list[Event]:
    """Makes every text of a run in this process."""
    task = task or task_of(config, name)
    task.write_uncond(config.texts)
    return [event for shard in shards_of_run(config) for event in task.run(shard)]


def finish_texts(config: Config, name: str = "wan") -> str:
    """Makes every text and marks them as complete, as the command does; the root."""
    task = task_of(config, name)
    embed_all(config, task=task)
    totals = totals_of([read_text_manifest(task.store, "videos")])
    task.store.create(SUCCESS_FILE, json.dumps(totals).encode())
    return config.output.path


def text_files(config: Config, name: str = "wan") -> dict[str, bytes]:
    """Every file of text embeddings but run.json and manifests, whose seconds differ, by relative path."""
    root = Path(config.output.path) / "text" / name
    found = [path for path in sorted(root.rglob("*.parquet")) if not path.name.startswith(".")]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def commit_rows(config: Config, shape: Shape = WIDE) -> Store:
    """The latents of a shard of eight samples in three slices, the last of which has no row, and their index."""
    store = commit_run(Path(config.output.path), ["/data/*.tar"])
    store.replace("run.json", json.dumps({**read_run(store), "config": public_config(config)}).encode())
    ledger, row = made_ledger(store), partial(_row, shape=shape)
    by_span = made_sample(1, captions=("the sun", "the moon"), caption_by_span=True)
    rows = [
        row(made_sample(0, captions=("a cat", "two dogs run")), 0),
        row(made_sample(0, captions=("a cat", "two dogs run")), 1),
        row(by_span, 0),
        row(by_span, 1, span_index=1),
        row(made_sample(2, captions=("one two three four five six seven eight",)), 0),
        row(made_sample(3, captions=()), 0),
        row(made_sample(5, captions=("schön 🐈",)), 0),
    ]
    slices = []
    for index in range(3):
        writer = SliceWriter(ledger, index, index * PART_SAMPLES, "moments", "float32")
        for sample in range(index * PART_SAMPLES, min(8, (index + 1) * PART_SAMPLES)):
            writer.counts.add(made_sample(sample))
            of_sample = [row for row in rows if row.sample.index == sample]
            for row in of_sample:
                writer.add(row)
            if not of_sample:
                writer.reject(made_sample(sample), -1, TOO_SHORT)
        slices.append(writer.commit())
    ledger.commit_manifest(slices, {})
    store.create("_SUCCESS.json", b'{"shards": 1}')
    return store


def _row(sample: Sample, window: int, span_index: int = 0, shape: Shape = WIDE) -> Row:
    clip = replace(made_row().clip, window_index=window, span_index=span_index)
    return made_row(sample.index, window, shape, id=f"videos/{sample.key}:{window}", sample=sample, clip=clip)
