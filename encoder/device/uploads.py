"""Frames of uint8 on their way to the encoder's device; on CUDA pinned, two buffers in turn, on a stream of their own.

It does not make floats of them, and it does not know what they are frames of.
"""

from collections.abc import Callable
from threading import Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Uint8Array = npt.NDArray[np.uint8]
Upload = Callable[[Uint8Array], Tensor]  # the same values on the device, ready for what is computed there next
Wait = Callable[[], None]

BUFFERS = 2  # one is filled while the other one is copied


class Lane(Protocol):
    """A way to a device for what was laid into its buffers."""

    def buffer(self, size_bytes: int) -> Tensor:
        """Memory of the host that `send` can copy from, uint8."""

    def send(self, staged: Tensor) -> tuple[Tensor, Wait]:
        """The values on the device, and what waits until `staged` may be written again."""


def uploads_to(device: torch.device) -> Upload:
    """What brings frames to `device`."""
    if device.type == "meta":
        return DoubleBuffered(MetaLane())
    return DoubleBuffered(CudaLane(device)) if device.type == "cuda" else as_tensor


def as_tensor(frames: Uint8Array) -> Tensor:
    """For a CPU: the frames themselves, copied only where torch cannot look at them in place."""
    return torch.from_numpy(np.require(frames, requirements=("C", "W")))


class DoubleBuffered:
    """Lays frames into one of two buffers and sends it, while the other one may still be on its way."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._buffers = [lane.buffer(0) for _ in range(BUFFERS)]
        self._waits: list[Wait] = [lambda: None] * BUFFERS
        self._turn = 0
        self._one_at_a_time = Lock()  # several threads may have clips open

    def __call__(self, frames: Uint8Array) -> Tensor:
        with self._one_at_a_time:
            return self._send(frames)

    def _send(self, frames: Uint8Array) -> Tensor:
        turn, self._turn = self._turn, (self._turn + 1) % BUFFERS
        self._waits[turn]()
        if self._buffers[turn].numel() < frames.size:
            self._buffers[turn] = self._lane.buffer(frames.size)
        staged = self._buffers[turn][: frames.size].view(frames.shape)
        np.copyto(staged.numpy(), frames)
        there, self._waits[turn] = self._lane.send(staged)
        return there


class MetaLane:
    """To torch's device without values: what was laid into a buffer goes no further."""

    def buffer(self, size_bytes: int) -> Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8)

    def send(self, staged: Tensor) -> tuple[Tensor, Wait]:
        return staged.to("meta"), lambda: None


class CudaLane:
    """Pinned memory, and a stream beside the one that computes, which waits for each copy on the device alone."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def buffer(self, size_bytes: int) -> Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def send(self, staged: Tensor) -> tuple[Tensor, Wait]:
        computing, copied = torch.cuda.current_stream(self._device), torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            there = staged.to(self._device, non_blocking=True)
            copied.record(self._stream)
        computing.wait_event(copied)
        there.record_stream(computing)  # or its memory could be given away while it is still read there
        return there, copied.synchronize
