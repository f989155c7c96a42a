"""Readers of the same rows as float32 tensors: the loader, and what a user would take instead.

`python -m benchmarks.loader_readers NAME ROOT SCRATCH [STOP]` reads one epoch and prints figures as JSON, or the ids
before and after a stop.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

State = Any
Samples = Iterator[tuple[list[str], Any]]  # ids and latents of a sample or a batch
BUFFER = 64  # samples
BATCH = 4


@dataclass(frozen=True)
class Reader:
    """`open(root, scratch, state)` gives what is left of an epoch, and where it stands after so many samples."""

    module: str
    open: Callable[[str, str, State], tuple[Samples, Callable[[int], State]]]
    reads_urls: bool = True


def ours(root: str, scratch: str, state: State) -> tuple[Samples, Callable[[int], State]]:
    from pipeline.dataset.loader import Latents

    latents = Latents(root, batch=BATCH, step_batches=4, scale=None)
    if state:
        latents.load_state_dict(state)
    return ((batch["id"], batch["latent"]) for batch in latents), lambda _: latents.state_dict()


def hf(root: str, scratch: str, state: State, buffer: int = 0) -> tuple[Samples, Callable[[int], State]]:
    import fsspec
    from datasets import load_dataset

    filesystem, path = fsspec.core.url_to_fs(root)
    files = [filesystem.unstrip_protocol(file) for file in sorted(filesystem.glob(f"{path}/latents/*/*.parquet"))]
    rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
    if buffer:
        rows = rows.shuffle(seed=0, buffer_size=buffer)
    if state:
        rows.load_state_dict(state)
    return (([row["id"]], tensor(row)) for row in rows), lambda _: rows.state_dict()


def hf_shuffled(root: str, scratch: str, state: State) -> tuple[Samples, Callable[[int], State]]:
    return hf(root, scratch, state, BUFFER)


def litdata(root: str, scratch: str, state: State) -> tuple[Samples, Callable[[int], State]]:
    """A dataset for each bucket, one after the other, as it mixes no shapes."""
    from litdata import StreamingDataset, index_parquet_dataset
    from litdata.streaming.item_loader import ParquetLoader

    sets = []
    for folder in sorted(Path(root, "latents").iterdir()):
        index = f"{scratch}/{folder.name}"
        Path(index).mkdir(parents=True, exist_ok=True)
        index_parquet_dataset(str(folder), index, num_workers=1)
        loader = ParquetLoader(columns=["id", "vae_latent_bytes", "vae_latent_shape", "vae_latent_dtype"])
        sets.append(StreamingDataset(str(folder), item_loader=loader, shuffle=True, seed=0, index_path=index))
    begun = state["set"] if state else 0
    if state:
        sets[begun].load_state_dict(state["state"])
    at = [begun]

    def samples() -> Samples:
        for number in range(begun, len(sets)):
            at[0] = number
            for row in sets[number]:
                yield [row["id"]], tensor(row)

    def now(taken: int) -> State:
        taken -= sum(len(one) for one in sets[: at[0]])
        return {"set": at[0], "state": sets[at[0]].state_dict(taken, 0, 1)}

    return samples(), now


def mosaic(root: str, scratch: str, state: State) -> tuple[Samples, Callable[[int], State]]:
    """A stream for each bucket of the copy in its own format, one bucket a batch."""
    import torch
    from streaming import Stream, StreamingDataset

    streams = [Stream(local=str(folder)) for folder in sorted(Path(root, "mds").iterdir())]
    options = {"batch_size": BATCH, "batching_method": "per_stream", "shuffle": True}
    rows = StreamingDataset(streams=streams, **options)
    if state:
        rows.load_state_dict(state)

    def samples() -> Samples:
        found = iter(rows)
        while batch := list(islice(found, BATCH)):
            latents = [torch.frombuffer(bytearray(row["latent"]), dtype=torch.float16) for row in batch]
            yield [row["id"] for row in batch], torch.stack(latents).reshape(-1, *batch[0]["shape"]).float()

    return samples(), lambda taken: rows.state_dict(taken, True)


READERS = {
    "ours": Reader("pipeline", ours),
    "hf": Reader("datasets", hf),
    "hf shuffled": Reader("datasets", hf_shuffled),
    "litdata parquet": Reader("litdata", litdata, reads_urls=False),
    "mosaicml mds": Reader("streaming", mosaic, reads_urls=False),
}


def missing() -> dict[str, str]:
    """The readers that cannot be imported here, and why."""
    why = {}
    for name, reader in READERS.items():
        try:
            import_module(reader.module)
        except (ImportError, RuntimeError) as error:
            why[name] = str(error)
    return why


def tensor(row: dict[str, Any]) -> Any:
    import torch

    data, shape = row["vae_latent_bytes"], row["vae_latent_shape"]
    return torch.frombuffer(bytearray(data), dtype=getattr(torch, row["vae_latent_dtype"])).reshape(list(shape)).float()


def ids_left(name: str, root: str, scratch: str, stop: int) -> tuple[list[str], list[str]]:
    """The ids before a stop (after as many samples or more), and those after it, with a reader made anew."""
    before: list[str] = []
    state = None
    if stop:
        samples, now = READERS[name].open(root, scratch, None)
        while len(before) < stop:
            before += next(samples)[0]
        state = now(len(before))
        close(samples)
    samples, _ = READERS[name].open(root, scratch, state)
    return before, [sample for ids, _ in samples for sample in ids]


def close(samples: Samples) -> None:
    if hasattr(samples, "close"):
        samples.close()


def measure(name: str, root: str, scratch: str) -> dict[str, float]:
    """Figures of one epoch; importing and, where a reader needs it, indexing are not in its seconds."""
    import torch

    torch.set_num_threads(1)
    import_module(READERS[name].module)
    memory_before, bytes_before = memory_mb("VmRSS"), _read_bytes()
    began = time.monotonic()
    samples, _ = READERS[name].open(root, scratch, None)
    opened, cpu = time.monotonic(), time.process_time()
    count, first = 0, 0.0
    for ids, _ in samples:
        first = first or time.monotonic()
        count += len(ids)
    seconds = time.monotonic() - opened
    return {
        "samples": count,
        "samples_per_second": count / seconds,
        "samples_per_cpu_second": count / (time.process_time() - cpu),
        "seconds_to_first_sample": first - began,
        "megabytes_read_per_sample": (_read_bytes() - bytes_before) / count / 1e6,
        "memory_mb": memory_mb("VmHWM") - memory_before,
    }


def memory_mb(name: str) -> float:
    """What the kernel says of this process: VmRSS is its memory, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024


def _read_bytes() -> int:
    """What this process has read by system calls; files that are mapped into memory are not in it."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def main(name: str, root: str, scratch: str, stop: str | None = None) -> None:
    found = measure(name, root, scratch) if stop is None else ids_left(name, root, scratch, int(stop))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # without waiting for what a peer has begun
