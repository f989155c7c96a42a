"""How long something takes on a device, which may still compute when a call has returned.

It does not repeat, and does not judge.
"""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """The seconds until the device has done what `work` asks of it, and what it returns."""
    _wait(device)
    began = time.perf_counter()
    made = work()
    _wait(device)
    return time.perf_counter() - began, made


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
