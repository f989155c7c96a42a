"""Values on their way from the encoder's device to the host; on CUDA into pinned memory, while the device goes on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Fetch = Callable[[], npt.NDArray[np.float32]]  # waits until the values are there
Download = Callable[[Tensor], Fetch]


def downloads_from(device: torch.device) -> Download:
    """What brings values from `device`."""
    return from_cuda if device.type == "cuda" else from_host


def from_host(values: Tensor) -> Fetch:
    """They are there already, or, on a simulated device, when they are asked for."""
    return lambda: values.float().cpu().numpy()


def from_cuda(values: Tensor) -> Fetch:
    """Copied behind what computes them, in the same stream; an event tells when they are there."""
    there = torch.empty(values.shape, dtype=torch.float32, pin_memory=True)
    there.copy_(values, non_blocking=True)
    copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def fetched() -> npt.NDArray[np.float32]:
        copied.synchronize()
        return there.numpy().copy()  # pinned memory is scarce: it is given back

    return fetched
