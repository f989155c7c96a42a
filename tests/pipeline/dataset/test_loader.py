"""A loader that never repeats or loses a row: its order is a pure function, whatever stops it and whoever goes on."""

import ast
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.makers import SCALING, TALL, WIDE, commit_run, fill_slice, made_ledger, made_row
from support.paths import ROOT
from torch.utils.data import DataLoader

from pipeline.dataset.loader import Latents

ENCODER = {"name": "made up", "scaling": SCALING | {"shift": [0.25], "scale": [0.5]}}
WORLDS = (1, 2, 3, 4, 6, 12)
Batch = dict[str, Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two shards of 90 rows each, of two shapes."""
    store = commit_run(tmp_path_factory.mktemp("loader") / "out", ["/data/*.tar"])
    for name in ("a", "b"):
        ledger = made_ledger(store, name)
        ledger = made_ledger(store, name, description={**ledger.description, "encoder": ENCODER})
        slices = []
        for index in range(30):
            writer = fill_slice(ledger, (), index)
            for sample in range(3 * index, 3 * index + 3):
                row = made_row(sample, shape=WIDE if sample % 3 else TALL, id=f"{name}/clip-{sample:03d}")
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


def test_two_epochs_show_every_row_and_differ(undisturbed: list[list[list[str]]]) -> None:
    flat = [[clip for batch in epoch for clip in batch] for epoch in undisturbed]
    assert len(set(flat[0]) | set(flat[1])) == 180
    assert max(Counter(flat[0]).values()) == 1
    assert flat[0] != flat[1]
    seen = Counter(clip for epoch in flat for clip in epoch)
    assert set(seen.values()) <= {3, 4}  # what filled no step of the last epoch is still to come


@pytest.mark.parametrize("world", WORLDS)
def test_any_world_has_the_same_order_and_equal_steps(
    root: str, undisturbed: list[list[list[str]]], world: int
) -> None:
    ranks = [list(latents) for latents in loaders(root, world)]
    assert global_order(ranks) == undisturbed[0]
    assert {len(batches) for batches in ranks} == {len(ranks[0])}
    for together in zip(*ranks, strict=True):
        assert len({batch["bucket"] for batch in together}) == 1


def test_random_stops_lose_and_repeat_nothing_with_other_worlds(root: str, undisturbed: list[list[list[str]]]) -> None:
    draw = random.Random(0)
    order = [batch for epoch in undisturbed[:2] for batch in epoch]
    for _ in range(8):
        seen: list[list[str]] = []
        state: dict[str, Any] | None = None
        while len(seen) < len(order):
            ranks = loaders(root, draw.choice(WORLDS))
            for latents in ranks:
                if state:
                    latents.load_state_dict(state)
            iterators = [iter(latents) for latents in ranks]
            stop = draw.choice((1, 2, 100)) * 12 // len(ranks)
            for _, *together in zip(range(stop), *iterators, strict=False):
                seen += [batch["id"] for batch in together]
            state = ranks[draw.randrange(len(ranks))].state_dict()
            for iterator in iterators:
                iterator.close()
        assert seen[: len(order)] == order


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


def test_the_loader_is_one_file_that_imports_nothing_of_ours() -> None:
    tree = ast.parse((ROOT / "pipeline" / "dataset" / "loader.py").read_text())
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {module.split(".")[0] for module in modules} & {"pipeline", "encoder", "jobs"}
