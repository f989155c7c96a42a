"""Work shared among threads of a CPU, each of them computing alone.

It does not know what is computed. Sharing pieces rather than operations keeps what a thread works on in its core's
cache, does not make every operation wait for the slower thread, and gives the same bits for any number of threads.
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


def in_turn(work: Work, pieces: Sequence[Any], device: torch.device) -> None:
    """Calls `work(0, piece)` for one piece after the other."""
    for piece in pieces:
        work(0, piece)


@contextmanager
def alone(device: torch.device) -> Iterator[None]:
    """On a CPU, torch computes by the calling thread alone: for small operations whose results are rounded."""
    if device.type != "cpu" or (threads := torch.get_num_threads()) == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def share(work: Work, pieces: Sequence[Any], device: torch.device, threads: int | None = None) -> None:
    """Calls `work(thread, piece)` for every piece: on a CPU by so many threads, elsewhere in turn.

    Errors of `work` are raised.

    Args:
        threads: None for torch's number; another one where the caller computes `alone`.
    """
    usual = torch.get_num_threads()
    threads = usual if threads is None else threads
    if device.type != "cpu" or threads == 1:
        in_turn(work, pieces, device)
        return
    inference, grad, left = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), iter(pieces)

    def alone(thread: int) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            for piece in left:  # each thread takes the next one: the last ones are done together
                work(thread, piece)

    pool = _pool(threads, os.getpid())
    try:
        futures = [pool.submit(alone, thread) for thread in range(min(threads, len(pieces)))]
        wait(futures)
    finally:
        torch.set_num_threads(usual)  # what a thread sets is the default of others too
    for future in futures:
        future.result()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Kept, as starting threads takes 0.2 ms; a process that was forked has none of its parent's."""
    return ThreadPoolExecutor(threads)
