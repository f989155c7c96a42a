"""Work shared among threads and memory kept from call to call: every piece once, alone, never in each other's way."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from support.paths import ROOT
from torch import Tensor

import encoder
from encoder.device.threads import share, single_threaded
from encoder.device.workspace import Workspace
from encoder.models import wan
from encoder.models.wan import WanParams

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Leaves torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("pieces", [0, 1, 2, 50])
def test_every_piece_is_done_once_by_a_thread_that_computes_alone(count: int, pieces: int) -> None:
    torch.set_num_threads(count)
    seen: list[tuple[int, int, int, bool]] = []
    with torch.no_grad():
        share(
            lambda thread, piece: seen.append((piece, thread, torch.get_num_threads(), torch.is_grad_enabled())),
            range(pieces),
            CPU,
        )
    assert sorted(piece for piece, *_ in seen) == list(range(pieces))
    assert all(0 <= thread < count and alone == 1 and not grad for _, thread, alone, grad in seen)
    assert torch.get_num_threads() == count


def test_a_number_belongs_to_one_thread_at_a_time() -> None:
    torch.set_num_threads(3)
    of_number: dict[int, set[int]] = {}
    share(lambda thread, _: of_number.setdefault(thread, set()).add(threading.get_ident()), range(200), CPU)
    assert all(len(idents) == 1 for idents in of_number.values())


def test_an_error_is_raised_and_the_threads_are_as_before() -> None:
    torch.set_num_threads(2)

    def fail(_: int, piece: int) -> None:
        if piece == 7:
            raise KeyError("seven")

    with pytest.raises(KeyError, match="seven"):
        share(fail, range(10), CPU)
    assert torch.get_num_threads() == 2


def test_a_workspace_gives_the_same_memory_under_the_same_name_only() -> None:
    workspace, like = Workspace(), torch.zeros(1)
    large = workspace.empty("a", (4, 5), like)
    small, other = workspace.empty("a", (3,), like), workspace.empty("b", (4, 5), like)
    half = workspace.empty("a", (4,), like.bfloat16())
    assert small.data_ptr() == large.data_ptr()
    assert len({tensor.data_ptr() for tensor in (large, other, half)}) == 3
    assert workspace.empty("a", (6, 7), like).shape == (6, 7)
    assert half.dtype == torch.bfloat16


def test_a_workspace_first_used_in_inference_mode_can_be_written_to_outside_of_it() -> None:
    workspace, like = Workspace(), torch.zeros(1)
    with torch.inference_mode():
        workspace.empty("a", (4,), like).zero_()
    workspace.empty("a", (4,), like).fill_(1)


def test_frames_are_in_channels_last_order() -> None:
    like = torch.zeros(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    made = Workspace().frames("a", like, 7, channels=8, margin_px=1)
    assert made.shape == (2, 8, 7, 6, 7)
    assert made.is_contiguous(memory_format=torch.channels_last_3d)


def test_elsewhere_than_on_a_cpu_memory_is_the_allocators() -> None:
    workspace, like = Workspace(), torch.empty(1, device="meta")
    assert workspace.empty("a", (4,), like) is not workspace.empty("a", (4,), like)
    assert not workspace._flat


@pytest.mark.slow
@pytest.mark.parametrize("convolutions", ["direct", "winograd_height", "winograd", "winograd_c"])
def test_clips_that_take_turns_and_clips_of_other_sizes_do_not_meet_in_kept_memory(
    convolutions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(wan.PRESETS, "wan", WanParams(channels=(96, 96, 96, 96), blocks_per_level=1))
    loaded = encoder.load("wan", weights="random:0", convolutions=convolutions)
    generator = torch.Generator().manual_seed(0)
    clips = [torch.rand(1, 3, 9, side, 16, generator=generator) * 2 - 1 for side in (8, 24, 8)]
    expected = [loaded.encode(clip).mean for clip in clips]
    streams = [loaded.stream(9) for _ in clips]
    made: list[list[Tensor]] = [[], [], []]
    for begin, end in ((0, 1), (1, 5), (5, 9)):
        for stream, clip, parts in zip(streams, clips, made, strict=True):
            if (part := stream.push(clip[:, :, begin:end])) is not None:
                parts.append(part.mean)
    for parts, mean in zip(made, expected, strict=True):
        assert torch.equal(torch.cat(parts, 2), mean)


def test_one_encoder_may_be_used_by_several_threads() -> None:
    loaded = encoder.load("tiny", weights="random:0")
    clips = [torch.full((1, 3, 17, 48, 48), value) for value in (-0.5, 0.0, 0.5)]
    expected, made = [loaded.encode(clip).mean for clip in clips], dict[int, Tensor]()
    threads = [
        threading.Thread(target=lambda i=i, clip=clip: made.update({i: loaded.encode(clip).mean}))  # type: ignore[misc]
        for i, clip in enumerate(clips)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(made[i], mean) for i, mean in enumerate(expected))


def test_a_thread_that_begins_while_another_is_restricted_has_the_threads_that_it_sets() -> None:
    found: list[int] = []

    def begin() -> None:
        found.append(torch.get_num_threads())
        encoder.set_threads(2)
        found.append(torch.get_num_threads())

    encoder.set_threads(2)
    with single_threaded(torch.device("cpu")):
        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()
        assert torch.get_num_threads() == 1
    assert found == [1, 2], "as torch's default for new threads is what any thread has set last"
    assert torch.get_num_threads() == 2


@pytest.mark.slow
def test_a_forked_process_has_threads_of_its_own() -> None:
    program = """if True:
        import os, torch
        from encoder.device.threads import share
        torch.set_num_threads(2)
        made = []
        share(lambda _, piece: made.append(piece), [1, 2, 3], torch.device("cpu"))
        child = os.fork()
        share(lambda _, piece: made.append(piece), [4, 5], torch.device("cpu"))
        assert sorted(made) == [1, 2, 3, 4, 5]
        if child:
            assert os.waitpid(child, 0)[1] == 0
    """
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
