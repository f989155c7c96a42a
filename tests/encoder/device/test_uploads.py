"""Frames that go to a device through two buffers arrive as they are, however late they are copied."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import encoder
from encoder.device.uploads import BUFFERS, DoubleBuffered, as_tensor, uploads_to


class LateChannel:
    """A device whose copies are made when somebody waits for them, as late as can be."""

    def __init__(self) -> None:
        self.made_bytes: list[int] = []
        self.waits = 0

    def buffer(self, size_bytes: int) -> Tensor:
        self.made_bytes.append(size_bytes)
        return torch.full((size_bytes,), 255, dtype=torch.uint8)

    def send(self, staged: Tensor) -> tuple[Tensor, Callable[[], None]]:
        there = torch.zeros_like(staged)

        def wait() -> None:
            self.waits += 1
            there.copy_(staged)

        return there, wait


def frames(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, count, 4, 6, 3), np.uint8)


def test_a_buffer_is_written_again_only_when_its_copy_is_made() -> None:
    channel = LateChannel()
    upload = DoubleBuffered(channel)
    sent = [frames(9 if number == 3 else 8, number) for number in range(7)]
    arrived = [upload(one) for one in sent]
    assert channel.waits == len(sent) - BUFFERS
    for one, there in list(zip(sent, arrived, strict=True))[:-BUFFERS]:
        assert np.array_equal(there.numpy(), one)


def test_buffers_are_made_once_and_again_for_larger_chunks() -> None:
    channel = LateChannel()
    upload = DoubleBuffered(channel)
    for count in (9, 8, 8, 8, 12, 8, 4):
        upload(frames(count, 0))
    assert channel.made_bytes == [0] * BUFFERS + [count * 72 for count in (9, 8, 12)]


def test_on_a_cpu_frames_are_not_copied_unless_they_must_be() -> None:
    assert uploads_to(torch.device("cpu")) is as_tensor
    there = frames(3, 0)
    assert as_tensor(there).data_ptr() == there.ctypes.data
    for awkward in (there[:, ::-1], there.transpose(0, 1, 3, 2, 4), np.frombuffer(there.tobytes(), np.uint8)):
        assert np.array_equal(as_tensor(awkward).numpy(), awkward)
        assert as_tensor(awkward).data_ptr() != awkward.ctypes.data


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_video_is_the_same_through_buffers(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Prompt(LateChannel):
        def send(self, staged: Tensor) -> tuple[Tensor, Callable[[], None]]:
            return staged.clone(), lambda: None

    here, through = (encoder.load("tiny", weights="random:0", dtype=dtype) for _ in range(2))
    monkeypatch.setattr(through, "_upload", DoubleBuffered(Prompt()))
    for count in (9, 8, 3, 12):
        chunk = frames(count, count)
        before = chunk.copy()
        assert torch.equal(here.to_video(chunk), through.to_video(chunk))
        assert np.array_equal(chunk, before)
