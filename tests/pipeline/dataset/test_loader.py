"""A loader that never repeats or loses a row: its order is a pure function, whatever stops it and whoever goes on."""

import ast
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import s3fs
import torch
from support.makers import SCALING, TALL, WIDE, commit_run, fill_slice, made_latent, made_ledger, made_row, made_sample
from support.paths import ROOT
from torch.utils.data import DataLoader

from pipeline.dataset.loader import Latents
from pipeline.dataset.remove import deny, finish_removals, rows_named
from pipeline.dataset.select import read_index
from pipeline.dataset.statistics import write_statistics
from pipeline.output.manifests import read_manifests
from pipeline.storage.store import Store

ENCODER = {"name": "made up", "scaling": SCALING | {"shift": [0.25], "scale": [0.5]}}
WORLDS = (1, 2, 3, 4, 6, 12)
STOPS = int(os.environ.get("LATENTMILL_SOAK", "6"))  # trials, of three stops each
Batch = dict[str, Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two shards of 39 rows each: those of one shape fill two steps of 24, those of the other one and a quarter."""
    store = commit_run(tmp_path_factory.mktemp("loader") / "out", ["/data/*.tar"])
    for name in ("a", "b"):
        ledger = made_ledger(store, name)
        ledger = made_ledger(store, name, description={**ledger.description, "encoder": ENCODER})
        slices = []
        for index in range(13):
            writer = fill_slice(ledger, (), index)
            for sample in range(3 * index, 3 * index + 3):
                row = made_row(sample, shape=WIDE if sample % 13 < 8 else TALL, id=f"{name}/clip-{sample:03d}")
                writer.counts.add(row.sample)
                writer.add(row)
            slices.append(writer.commit())
        ledger.commit_manifest(slices, {})
    return store.root


def ids_of(batches: list[Batch]) -> list[str]:
    return [clip for batch in batches for clip in batch["id"]]


def global_order(ranks: list[list[Batch]]) -> list[list[str]]:
    """The batches of all ranks in the order in which they are used."""
    return [batch["id"] for together in zip(*ranks, strict=True) for batch in together]


def loaders(root: str, world: int, **options: Any) -> list[Latents]:
    return [Latents(root, batch=2, step_batches=12, rank=rank, world=world, **options) for rank in range(world)]


def batches_of(latents: Latents, workers: int = 0) -> "DataLoader[Batch]":
    return DataLoader(latents, batch_size=None, num_workers=workers)


@pytest.fixture(scope="module")
def undisturbed(root: str) -> list[list[list[str]]]:
    """The order of four epochs in one process."""
    (latents,) = loaders(root, 1)
    return [[batch["id"] for batch in latents] for _ in range(4)]


@pytest.mark.slow
def test_every_row_is_shown_once_in_an_epoch_and_never_left_out_twice_in_succession(
    undisturbed: list[list[list[str]]],
) -> None:
    epochs = [[clip for batch in epoch for clip in batch] for epoch in undisturbed]
    assert all(max(Counter(epoch).values()) == 1 for epoch in epochs)
    assert all(len(set(one) | set(two)) == 78 for one, two in pairwise(epochs))
    assert {len(epoch) for epoch in epochs} == {72}
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("shuffle", [True, False])
def test_over_many_epochs_all_rows_are_shown_equally_often(root: str, shuffle: bool) -> None:
    (latents,) = loaders(root, 1, shuffle=shuffle)
    rows = [np.concatenate([rows for _, rows in latents.steps(epoch)]) for epoch in range(10)]
    shown = Counter(np.concatenate(rows).tolist())
    assert Counter(shown.values()) == {10: 48, 8: 30}  # 6 of the 30 in the smaller bucket fill no step
    if not shuffle:
        assert all(sum(np.diff(epoch) < 0) == 1 for epoch in rows)  # once, where the second bucket begins


@pytest.mark.parametrize("world", WORLDS)
def test_any_world_has_the_same_order_and_equal_steps(
    root: str, undisturbed: list[list[list[str]]], world: int
) -> None:
    ranks = [list(latents) for latents in loaders(root, world)]
    assert global_order(ranks) == undisturbed[0]
    assert {len(batches) for batches in ranks} == {len(loaders(root, world)[0])}
    for together in zip(*ranks, strict=True):
        assert len({batch["bucket"] for batch in together}) == 1


def next_world(root: str, draw: random.Random, state: Batch) -> int:
    """A world at random that can go on from a state; those that cannot share what is left of its step refuse it."""
    while state["batch"] % (world := draw.choice(WORLDS)):
        with pytest.raises(ValueError, match=r"use world 1, .*or a state whose `batch` is 0"):
            loaders(root, world)[0].load_state_dict(state)
    return world


def endless(loader: "DataLoader[Batch]") -> Iterator[Batch]:
    """Epoch after epoch, as a training job takes them."""
    while True:
        yield from loader


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(STOPS))
def test_random_stops_lose_repeat_and_reorder_nothing(root: str, undisturbed: list[list[list[str]]], seed: int) -> None:
    draw = random.Random(seed)
    order = [batch for epoch in undisturbed for batch in epoch]
    seen: list[list[str]] = []
    state = loaders(root, 1)[0].state_dict()
    for _ in range(3):
        world, workers = next_world(root, draw, state), draw.choice((0, 0, 2))
        stop = draw.randint(1, 45 // world)
        ranks = loaders(root, world)
        taken: list[list[Batch]] = []
        for latents in ranks:
            latents.load_state_dict(json.loads(json.dumps(state)))
            taken.append(list(islice(endless(batches_of(latents, workers)), stop)))
        seen += global_order(taken)
        states = [batches[-1]["state"] for batches in taken]
        assert states == states[:1] * world
        assert workers or [latents.state_dict() | {"begun_at": 0} for latents in ranks] == [
            state | {"begun_at": 0} for state in states
        ]
        state = states[0]
    assert seen == order[: len(seen)]


@pytest.mark.slow
def test_workers_have_the_same_order_and_their_batches_say_where_they_stand(
    root: str, undisturbed: list[list[list[str]]]
) -> None:
    (latents,) = loaders(root, 1)
    loader = batches_of(latents, workers=2)
    first = list(loader)
    assert [batch["id"] for batch in first] == undisturbed[0]
    assert [batch["id"] for batch in loader] == undisturbed[1]
    (resumed,) = loaders(root, 1)
    resumed.load_state_dict(first[16]["state"])
    assert [batch["id"] for batch in batches_of(resumed, workers=2)] == undisturbed[0][17:]


def test_a_state_of_another_plan_is_refused_with_what_differs(root: str) -> None:
    state = Latents(root, batch=2, step_batches=12, seed=1).state_dict()
    with pytest.raises(ValueError, match=r"another plan \(seed: 1 there, 0 here\)"):
        Latents(root, batch=2, step_batches=12).load_state_dict(state)


def test_latents_are_scaled_as_the_footer_says(root: str) -> None:
    (batch, *_) = Latents(root, batch=2, step_batches=12)
    assert batch["latent"].dtype == torch.float32
    for clip, latent in zip(batch["id"], batch["latent"], strict=True):
        row = made_row(int(clip[-3:]), shape=tuple(latent.shape))  # type: ignore[arg-type]
        np.testing.assert_allclose(latent.numpy(), (row.latent - 0.25) * 0.5, rtol=1e-6)


def test_statistics_scale_each_channel_to_mean_0_and_deviation_1(root: str) -> None:
    write_statistics(Store(root), "moments", read_manifests(Store(root), ["a", "b"]))
    batches = Latents(root, batch=1, step_batches=1, scale="statistics")
    values = torch.cat([batch["latent"][0].flatten(1) for batch in batches], dim=1)
    torch.testing.assert_close(values.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(1, correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_the_condition_of_cogvideox_is_divided_and_captions_are_drawn(tmp_path: Path) -> None:
    ledger = made_ledger(commit_run(tmp_path, ["/data/a.tar"]), "a")
    encoder = ENCODER | {"scaling": SCALING | {"shift": [0.0], "scale": [0.5], "image_scale": [2.0]}}
    description = {**ledger.description, "encoder": encoder, "image_latent": "first_frame"}
    ledger = replace(ledger, description=description)
    writer = fill_slice(ledger, (), image_latent=True)
    for sample in range(3):
        captioned = made_sample(sample, captions=("one", "two", "three"))
        row = made_row(sample, image_latent=made_latent(sample)[:, :1], sample=captioned)
        writer.counts.add(row.sample)
        writer.add(row)
    ledger.commit_manifest([writer.commit()], {})
    latents = Latents(str(tmp_path), batch=3, step_batches=1, shuffle=False, caption="random")
    epochs = [batch for _ in range(8) for batch in latents]
    assert {caption for batch in epochs for caption in batch["caption"]} == {"one", "two", "three"}
    for sample, image in enumerate(epochs[0]["image_latent"]):
        np.testing.assert_allclose(image.numpy(), made_latent(sample)[:, :1] / 0.5, rtol=1e-6)


def test_samples_and_dropped_captions_follow_from_seed_epoch_and_id(root: str) -> None:
    options: dict[str, Any] = {"posterior": "sample", "caption_dropout": 0.5, "batch": 2, "step_batches": 12}
    first, again = (list(Latents(root, **options)) for _ in range(2))
    captions = [caption for batch in first for caption in batch["caption"]]
    assert 0 < captions.count("") < len(captions)
    assert [batch["caption"] for batch in first] == [batch["caption"] for batch in again]
    assert all(torch.equal(one["latent"], two["latent"]) for one, two in zip(first, again, strict=True))
    means = list(Latents(root, batch=2, step_batches=12))
    assert not torch.equal(first[0]["latent"], means[0]["latent"])


def test_what_was_read_is_kept_in_the_cache(root: str, tmp_path: Path) -> None:
    once = list(Latents(root, batch=2, step_batches=12, cache=str(tmp_path)))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    again = list(Latents(root, batch=2, step_batches=12, cache=str(tmp_path)))
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert ids_of(once) == ids_of(again)


def test_the_cache_stays_within_its_bound(root: str, tmp_path: Path) -> None:
    list(Latents(root, batch=2, step_batches=12, cache=str(tmp_path), cache_bytes=50_000))
    assert 25_000 < sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 50_000


def test_the_loader_is_one_file_that_imports_nothing_of_ours() -> None:
    tree = ast.parse((ROOT / "pipeline" / "dataset" / "loader.py").read_text())
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {module.split(".")[0] for module in modules} & {"pipeline", "encoder", "jobs"}


def test_two_roots_are_one_set_whichever_has_which_shard(
    root: str, undisturbed: list[list[list[str]]], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        for file in Path(root).rglob("*.parquet"):
            if file.name.startswith(name):
                target = tmp_path / name / file.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(file)
    latents = Latents([str(tmp_path / "b"), str(tmp_path / "a")], batch=2, step_batches=12)
    assert [batch["id"] for batch in latents] == undisturbed[0]
    with pytest.raises(ValueError, match=r"a\.parquet is in several roots"):
        Latents([root, str(tmp_path / "a")])


def test_a_run_on_s3_has_the_same_order(
    root: str, undisturbed: list[list[list[str]]], s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"ENDPOINT_URL": f"http://{s3_server}", "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()  # of other servers
    filesystem = fsspec.filesystem("s3")
    filesystem.mkdir("bucket-of-loading")
    filesystem.put(f"{root}/index", "bucket-of-loading/out/index", recursive=True)
    filesystem.put(f"{root}/latents", "bucket-of-loading/out/latents", recursive=True)
    (latents,) = loaders("s3://bucket-of-loading/out", 1)
    assert [batch["id"] for batch in islice(latents, 12)] == undisturbed[0][:12]
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_bucket_of_less_than_a_step_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match=r"too few rows .*\(2x2x5x3 has 30 of 48\)"):
        Latents(root, batch=4, step_batches=12)


def test_rows_that_were_removed_since_are_refused_and_not_taken_from_the_cache(root: str, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "out")
    store = Store(str(tmp_path / "out"))
    options: dict[str, Any] = {"batch": 1, "step_batches": 1, "shuffle": False, "cache": str(tmp_path / "cache")}
    ids = ids_of(list(Latents(store.root, **options)))
    begun = Latents(store.root, **options | {"cache": None})
    deny(store, rows_named(read_index(store), [ids[0]]), "asked")
    finish_removals(store)
    assert ids_of(list(Latents(store.root, **options))) == ids[1:]
    with pytest.raises(ValueError, match=r"shorter than its index says|changed since"):
        list(begun)
