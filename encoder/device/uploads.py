"""Copies of uint8 frames to the encoder's device; to CUDA through two pinned buffers, on a stream of their own."""

from collections.abc import Callable
from threading import Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Uint8Array = npt.NDArray[np.uint8]
Upload = Callable[[Uint8Array], Tensor]  # frames to the same values on the device, ready for the next computation there
Wait = Callable[[], None]

BUFFERS = 2  # one is filled while the other is copied


class Channel(Protocol):
    """Copies buffers on the host to a device."""

    def buffer(self, size_bytes: int) -> Tensor:
        """Memory on the host that `send` can copy from, uint8."""

    def send(self, staged: Tensor) -> tuple[Tensor, Wait]:
        """The values on the device, and a function that waits until `staged` may be overwritten."""


def uploads_to(device: torch.device) -> Upload:
    """Returns the function that copies frames to `device`."""
    if device.type == "meta":
        return DoubleBuffered(MetaChannel())
    return DoubleBuffered(CudaChannel(device)) if device.type == "cuda" else as_tensor


def as_tensor(frames: Uint8Array) -> Tensor:
    """For a CPU: the frames themselves, copied only where torch cannot use them in place."""
    return torch.from_numpy(np.require(frames, requirements=("C", "W")))


class DoubleBuffered:
    """Copies frames into one of two buffers and sends it, while the other may still be in transfer."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._buffers = [channel.buffer(0) for _ in range(BUFFERS)]
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
            self._buffers[turn] = self._channel.buffer(frames.size)
        staged = self._buffers[turn][: frames.size].view(frames.shape)
        np.copyto(staged.numpy(), frames)
        uploaded, self._waits[turn] = self._channel.send(staged)
        return uploaded


class MetaChannel:
    """To torch's meta device, which holds no values: the buffers are filled and go no further."""

    def buffer(self, size_bytes: int) -> Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8)

    def send(self, staged: Tensor) -> tuple[Tensor, Wait]:
        return staged.to("meta"), lambda: None


class CudaChannel:
    """Pinned memory and a stream for copies; the computing stream waits for each on the device, not on the host."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def buffer(self, size_bytes: int) -> Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def send(self, staged: Tensor) -> tuple[Tensor, Wait]:
        computing, copied = torch.cuda.current_stream(self._device), torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            uploaded = staged.to(self._device, non_blocking=True)
            copied.record(self._stream)
        computing.wait_event(copied)
        uploaded.record_stream(computing)  # or its memory could be reused while it is still being read
        return uploaded, copied.synchronize
