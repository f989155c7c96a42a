"""Replayed chunks are those of the engine to the bit, whichever clips are under way and whatever memory there is.

On a CPU a recording is the call itself on the recording's own tensors, which is what a CUDA graph is on its device.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import MakeConfig, samples_of, write_tar
from torch import Tensor

import encoder
from encoder.engines import Engine
from encoder.graphs import EAGER_CALLS, Carried, Graphed, Replay, copy_state
from encoder.replica import OutOfMemoryError, VideoEncoder
from encoder.tiles import Tiled, Tiles
from jobs.cli import main


class Capture:
    """Counts recordings and replays; the recordings numbered in `without_memory` fail."""

    def __init__(self, without_memory: Sequence[int] = ()) -> None:
        self.recorded, self.replayed, self.without_memory = 0, 0, without_memory

    def __call__(self, call: Callable[[], None]) -> Replay:
        self.recorded += 1
        if self.recorded in self.without_memory:
            raise OutOfMemoryError("no memory for a recording")

        def replay() -> None:
            self.replayed += 1
            call()

        return replay


class Short:
    """An engine whose device has no memory for chunks that `is_short` names; it has used up their state by then."""

    streams = True

    def __init__(self, engine: Engine, is_short: Callable[[Tensor], bool]) -> None:
        self._engine, self._is_short = engine, is_short
        self.calls = 0

    def plan(self, frames: int) -> tuple[int, ...]:
        return self._engine.plan(frames)

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        self.calls += 1
        if self._is_short(x):
            for frames in (frames for past in state or () for frames in past):
                frames.zero_()
            raise OutOfMemoryError("no memory for a chunk")
        return self._engine.encode_chunk(x, state)


def video(frames: int, seed: int = 0, height_px: int = 16, width_px: int = 24, batch: int = 1) -> Tensor:
    shape = (batch, frames, height_px, width_px, 3)  # in the memory order of `to_video`
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return values.permute(0, 4, 1, 2, 3)


Ways = tuple[VideoEncoder, VideoEncoder, Capture]


@pytest.fixture(params=[{}, {"dtype": "bfloat16"}, {"norm_scope": "frame"}], ids=["float32", "bfloat16", "frame"])
def ways(request: pytest.FixtureRequest) -> Ways:
    """An encoder, the same one by recordings, and who makes these."""
    return both(request.param)


def both(options: dict[str, Any], most_graphs: int = 16, without_memory: Sequence[int] = ()) -> Ways:
    plain, graphed = (encoder.load(**({"name": "tiny", "weights": "random:0"} | options)) for _ in range(2))
    capture = Capture(without_memory)
    graphed.engine = Graphed(graphed.engine, capture, most_graphs)
    return plain, graphed, capture


def same(plain: VideoEncoder, graphed: VideoEncoder, clip: Tensor) -> bool:
    ours, theirs = graphed.encode(clip), plain.encode(clip)
    return torch.equal(ours.mean, theirs.mean) and torch.equal(ours.logvar, theirs.logvar)


def test_replayed_clips_are_those_of_the_engine(ways: Ways) -> None:
    plain, graphed, capture = ways
    assert all(same(plain, graphed, video(29, seed)) for seed in range(4))
    assert capture.recorded == len({(frames, index == 0) for index, frames in enumerate(plain.plan(29))})
    assert capture.replayed > 2 * len(plain.plan(29))


def test_shapes_have_recordings_of_their_own(ways: Ways) -> None:
    plain, graphed, _ = ways
    clips = [video(9), video(17), video(21), video(1), video(17, 1, 24, 16), video(17, 2, batch=2), video(17, 3, 8, 8)]
    for _ in range(4):
        assert all(same(plain, graphed, clip) for clip in clips)


def test_clips_under_way_at_once_keep_their_own_states(ways: Ways) -> None:
    plain, graphed, capture = ways
    for seed in range(3):
        same(plain, graphed, video(25, seed))
    before = capture.replayed
    clips = [video(25, seed) for seed in range(3)]
    streams, parts = [graphed.stream(25) for _ in clips], [list[Tensor]() for _ in clips]
    chunks = [list(clip.split(plain.plan(25), 2)) for clip in clips]
    turns = [place for turn in ((0, 1, 2), (0, 0, 1), (1, 2, 2)) for place in turn]
    while any(chunks):
        for place in turns:
            if chunks[place]:
                posterior = streams[place].push(chunks[place].pop(0))
                assert posterior is not None
                parts[place].append(posterior.mean)
    assert capture.replayed == before + 3 * len(plain.plan(25))
    for clip, part in zip(clips, parts, strict=True):
        assert torch.equal(torch.cat(part, 2), plain.encode(clip).mean)


def test_a_clip_that_is_alone_is_not_copied_from_chunk_to_chunk() -> None:
    _, graphed, _ = both({})
    engine, chunks = graphed.engine, [video(9), video(8), video(8)]
    states: list[Carried] = []
    with torch.inference_mode():
        for _ in range(EAGER_CALLS + 1):
            states.clear()
            state = None
            for chunk in chunks:
                _, state = engine.encode_chunk(chunk, state)
                states.append(state)
    assert states[0] is states[1] is states[2]
    assert len({frames.data_ptr() for frames in states[0].tensors[0]}) == len(states[0].tensors[0])
    assert states[0].tensors is engine._graphs[(tuple(chunks[0].shape), True)].seat.tensors  # type: ignore[attr-defined]


def test_a_chunk_of_a_new_shape_amid_a_clip_goes_on_from_the_replayed_ones(ways: Ways) -> None:
    plain, graphed, _ = ways
    for seed in range(3):
        same(plain, graphed, video(25, seed))
    for plan in ((9, 4, 8, 4), (9, 8, 12), (9, 4, 8, 4), (9, 4, 4, 4, 4)):
        clip = video(sum(plan), 7)
        streams = [one.stream(sum(plan), plan) for one in (plain, graphed)]
        for chunk in clip.split(plan, 2):
            theirs, ours = (stream.push(chunk) for stream in streams)
            assert theirs is not None
            assert ours is not None
            assert torch.equal(theirs.mean, ours.mean)
            if chunk.shape[2] in (4, 12):
                graphed.encode(video(25, 8))  # whose state takes the seat


def test_of_more_shapes_than_allowed_those_are_dropped_that_were_not_used_for_longest() -> None:
    plain, graphed, capture = both({}, most_graphs=2)
    small, large = video(9), video(9, 0, 24, 24)
    for clip in [small] * 3 + [large] * 3:
        assert same(plain, graphed, clip)
    assert (capture.recorded, capture.replayed) == (2, 2)
    for clip in [small, *[video(9, 0, 8, 8)] * 3]:  # takes the place of the large one's
        assert same(plain, graphed, clip)
    assert (capture.recorded, capture.replayed) == (3, 4)
    for clip in [small, *[large] * 3]:
        assert same(plain, graphed, clip)
    assert (capture.recorded, capture.replayed) == (4, 6)


def test_a_shape_without_memory_for_its_recording_goes_on_without_one() -> None:
    plain, graphed, capture = both({}, without_memory=[1])
    assert all(same(plain, graphed, video(25, seed)) for seed in range(4))
    assert capture.recorded == 2  # of the chunks after the first; that of the first is not tried again
    assert capture.replayed


def short_beside_recordings(graphed: VideoEncoder, is_short: Callable[[Tensor], bool]) -> Any:
    """Makes the device too small for some chunks while there are recordings; returns the engine."""
    engine: Any = graphed.engine
    engine.engine = Short(engine.engine, lambda x: bool(engine._graphs) and is_short(x))
    return engine


def test_recordings_are_dropped_where_a_chunk_needs_their_memory() -> None:
    plain, graphed, capture = both({})
    engine = short_beside_recordings(graphed, lambda x: x.shape[3] == 24)
    assert all(same(plain, graphed, video(17, seed)) for seed in range(3))
    assert len(engine._graphs) == capture.recorded == 2
    assert same(plain, graphed, video(17, 0, 24, 24))  # its first chunk is tried again without them
    assert not engine._graphs
    for frames in (13, 13, 13, 17, 17):
        assert same(plain, graphed, video(frames))
    assert capture.recorded == 2


def test_a_clip_whose_state_was_used_up_ends_and_the_next_one_has_memory() -> None:
    plain, graphed, _ = both({})
    short_beside_recordings(graphed, lambda x: x.shape[2] == 4)
    assert all(same(plain, graphed, video(17, seed)) for seed in range(3))
    stream = graphed.stream(13, (9, 4))
    stream.push(video(9))
    with pytest.raises(OutOfMemoryError, match="no memory for a chunk"):
        stream.push(video(4))
    stream, expected = graphed.stream(13, (9, 4)), plain.stream(13, (9, 4)).push(video(13))
    posterior = stream.push(video(13))
    assert posterior is not None
    assert expected is not None
    assert torch.equal(posterior.mean, expected.mean)


def test_a_device_without_any_memory_says_so() -> None:
    _, graphed, _ = both({})
    graphed.engine.engine = Short(graphed.engine.engine, lambda _: True)  # type: ignore[attr-defined]
    with pytest.raises(OutOfMemoryError, match="no memory for a chunk"):
        graphed.encode(video(9))
    assert graphed.engine.engine.calls == 1  # type: ignore[attr-defined]


def test_tiles_are_replayed_one_by_one() -> None:
    plain, graphed = (encoder.load("tiny", weights="random:0", tiles=(16, 16, 8, 8)) for _ in range(2))
    tiled, capture = graphed.engine, Capture()
    assert isinstance(tiled, Tiled)
    graphed.engine = Tiled(Graphed(tiled.engine, capture), Tiles(16, 16, 8, 8), 8)
    assert all(same(plain, graphed, video(17, seed, 32, 24)) for seed in range(2))
    assert capture.replayed > 2 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "cuda_graphs: true needs a CUDA device, and the encoder is on cpu: set it to false .*runtime.cuda_graphs")],
)
def test_an_encoder_that_cannot_be_replayed_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.load("tiny", weights="random:0", cuda_graphs=True, **options)


@pytest.mark.ray
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_run_without_a_gpu_says_in_a_line_that_there_is_nothing_to_replay_on(
    make_config: MakeConfig, tmp_path: Path, videos: tuple[bytes, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "a.tar", samples_of(videos[:1]))
    config = make_config(runtime={"cuda_graphs": True})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert main(["run", str(tmp_path / "c.yaml")]) == 2
    told = capfd.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("latentmill: encoder: cuda_graphs: true needs a CUDA device, and the encoder is on cpu")


def test_what_a_state_shares_with_another_is_not_copied() -> None:
    shared, there = torch.ones(2), torch.zeros(2)
    copy_state(((shared, torch.full((2,), 5.0)),), ((shared, there),))
    assert there.tolist() == [5, 5]
