"""Pieces of work shared among the threads of a CPU, each piece computed by one thread.

Sharing pieces rather than single operations keeps a thread's data in its core's cache, does not wait for the slowest
thread after every operation, and gives the same bits for any number of threads.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

Work = Callable[[int, Any], None]
Each = Callable[[Work, Sequence[Any], torch.device], None]


def in_order(work: Work, pieces: Sequence[Any], device: torch.device) -> None:
    """Calls `work(0, piece)` for each piece in order."""
    for piece in pieces:
        work(0, piece)


@contextmanager
def single_threaded(device: torch.device) -> Iterator[None]:
    """Restricts torch on a CPU to the calling thread, so that rounding is independent of the number of threads."""
    if device.type != "cpu" or (threads := torch.get_num_threads()) == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def share(work: Work, pieces: Sequence[Any], device: torch.device, threads: int | None = None) -> None:
    """Calls `work(thread, piece)` for every piece: on a CPU in several threads, elsewhere in order.

    An error raised by `work` is raised again.

    Args:
        threads: None for torch's setting; a number where the caller is `single_threaded`.
    """
    usual = torch.get_num_threads()
    threads = usual if threads is None else threads
    if device.type != "cpu" or threads == 1:
        in_order(work, pieces, device)
        return
    inference, grad, left = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), iter(pieces)

    def take_pieces(thread: int) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            for piece in left:  # each takes the next one when it is free, so that all finish at about the same time
                work(thread, piece)

    pool = _pool(threads, os.getpid())
    try:
        futures = [pool.submit(take_pieces, thread) for thread in range(min(threads, len(pieces)))]
        wait(futures)
    finally:
        torch.set_num_threads(usual)  # what a thread sets is also the default of other threads
    for future in futures:
        future.result()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Kept because starting threads takes 0.2 ms, and by process because a fork has none of its parent's threads."""
    return ThreadPoolExecutor(threads)
