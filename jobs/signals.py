"""SIGINT and SIGTERM end a command cleanly, once.

It does not decide what clean means: whoever is interrupted cleans up on the way out.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal came. Like KeyboardInterrupt it is no Exception, so that nothing takes it for a fault."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


def take_signals() -> None:
    """Turns the first signal into `Stopped`; a second one ends the process at once."""
    for number in SIGNALS:
        signal.signal(number, _stop)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it a signal raises `Stopped`; afterwards signals do what they did before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    take_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    for other in SIGNALS:
        signal.signal(other, _leave)
    raise Stopped(number)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
