"""Copies from the encoder's device to the host; from CUDA into pinned memory, while the device keeps computing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Fetch = Callable[[], npt.NDArray[np.float32]]  # waits for the copy and returns the values
Download = Callable[[Tensor], Fetch]


def downloads_from(device: torch.device) -> Download:
    """Returns the function that starts copies from `device`."""
    return from_cuda if device.type == "cuda" else from_host


def from_host(values: Tensor) -> Fetch:
    """The values are on the host already or, on a simulated device, once they are asked for."""
    return lambda: values.float().cpu().numpy()


def from_cuda(values: Tensor) -> Fetch:
    """Queues the copy after the computation, in the same stream; an event marks its end."""
    pinned = torch.empty(values.shape, dtype=torch.float32, pin_memory=True)
    pinned.copy_(values, non_blocking=True)
    copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def fetch() -> npt.NDArray[np.float32]:
        copied.synchronize()
        return pinned.numpy().copy()  # pinned memory is scarce: free it soon

    return fetch
