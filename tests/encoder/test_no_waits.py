"""Inside a clip the host never waits for the device: nothing is read back, and nothing but frames is copied to it.

A CPU has nobody to wait for, so what would wait on a GPU is looked for: reads of values on a CPU, and on the meta
device, which takes a GPU's branches, tensors that lie elsewhere.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import MakeConfig, samples_of, write_tar
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import encoder
from encoder.video_encoder import VideoEncoder
from pipeline.input.listing import shards_of
from pipeline.input.samples import samples_of as samples_in
from pipeline.latents.encode import encode_sample
from pipeline.latents.stopwatch import Stopwatch
from pipeline.records import DecodeItem
from pipeline.video.decoder import LocalDecoder

READS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2"}


class NoReads(TorchDispatchMode):
    """Fails where a value is looked at, as a branch, an index or a number of Python."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        reads = name in READS or (name.startswith("index") and has_masks((args, kwargs)))
        assert not reads, f"{func} reads a value"
        return func(*args, **(kwargs or {}))


def has_masks(arguments: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(arguments))


class OnlyOn(TorchDispatchMode):
    """Fails where an operation has to do with a tensor on another device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.operations = device, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        for leaf in tree_leaves((args, kwargs, result)):
            assert not isinstance(leaf, Tensor) or leaf.device.type == self.device, f"{func} of {leaf.device}"
        return result


def test_these_modes_find_what_would_wait() -> None:
    x = torch.ones(2)
    for read in (lambda: x[0].item(), lambda: bool(x[0]), lambda: x[x > 0], lambda: float(x.sum())):
        with pytest.raises(AssertionError, match="reads a value"), NoReads():
            read()
    with pytest.raises(AssertionError, match="of cpu"), OnlyOn("meta"):
        torch.arange(3).to("meta")


ENCODERS: list[Any] = [
    {"name": "tiny"},
    {"name": "tiny", "norm_scope": "clip"},
    {"name": "tiny", "norm_scope": "frame", "dtype": "bfloat16"},
    {"name": "tiny", "tiles": (16, 16, 8, 8)},
    pytest.param({"name": "wan", "convolutions": "direct"}, marks=pytest.mark.full_size),
]


@pytest.fixture(scope="module", params=ENCODERS, ids=lambda options: " ".join(map(str, options.values())))
def loaded(request: pytest.FixtureRequest) -> VideoEncoder:
    return encoder.load(**({"weights": "random:0", "chunk_frames": 4} | request.param))


def pushes(loaded: VideoEncoder, device: str) -> Iterator[Callable[[], Any]]:
    """Two clips of two chunks each, interleaved, chunk by chunk."""
    streams = [loaded.stream(9) for _ in range(2)]
    for frames in (5, 4):
        video = torch.zeros(1, 3, frames, 16, 16, device=device)
        for stream in streams:
            yield lambda stream=stream, video=video: stream.push(video)  # type: ignore[misc]


def test_no_value_is_read(loaded: VideoEncoder) -> None:
    for push in pushes(loaded, "cpu"):
        with NoReads():
            push()


@pytest.mark.slow
@pytest.mark.usefixtures("wide_wan")
@pytest.mark.parametrize("algorithm", ["winograd_height", "winograd", "winograd_c"])
def test_no_value_is_read_by_other_convolutions(algorithm: str) -> None:
    wan = encoder.load("wan", weights="random:0", convolutions=algorithm)
    assert set(wan.identity["convolutions"].values()) == {algorithm}
    threads = torch.get_num_threads()
    encoder.set_threads(1)  # modes look at their own thread
    with NoReads():
        wan.encode(torch.zeros(1, 3, 5, 16, 16))
    encoder.set_threads(threads)


@pytest.mark.slow
def test_nothing_comes_from_the_host(loaded: VideoEncoder) -> None:
    shadow = loaded.shadow
    on_meta = VideoEncoder(shadow, shadow, loaded.spec, loaded.identity, torch.device("meta"), loaded.dtype)
    for push in pushes(on_meta, "meta"):
        with OnlyOn("meta") as watched:
            push()
    assert watched.operations


class Watched(TorchFunctionMode):
    """Notes by its name what brings values of tensors to Python."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in {"cpu", "item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero"}:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("small_objects")
@pytest.mark.parametrize("posterior", ["moments", "mean", "sample"])
def test_latents_are_fetched_when_their_row_is_complete_and_not_before(
    posterior: str, tiny: VideoEncoder, make_config: MakeConfig, tmp_path: Path, videos: tuple[bytes, ...]
) -> None:
    write_tar(tmp_path / "a.tar", samples_of(videos[:1]))
    clip = {"frames": 9, "window": "full", "continuous": True, "fps": None, "buckets": ["32x48"]}
    config = make_config(clip=clip, encoder={"chunk_frames": 4}, output={"posterior": posterior})
    sample = next(samples_in(shards_of(config.input)[0], config))
    items, events = list(LocalDecoder(config, tiny.spec).start(sample)), []  # decoding uses torch too

    def chunks() -> Iterator[DecodeItem]:
        for item in items:
            events.append("chunk")
            yield item

    with Watched(events):
        for _ in encode_sample(sample, chunks(), tiny, config.output, Stopwatch()):
            events.append("row")
    assert events.count("row") == 2
    told = "".join({"chunk": "c", "row": "r"}.get(event, "f") for event in events)
    assert re.fullmatch(r"(c+(f+r)?)+", told), told
