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


class DeferredSignals:
    """Signals that only take note, for stretches in which libraries cannot bear an exception from a handler.

    Ray's calls are such: an exception out of them becomes a SystemError and the signal is lost.
    """

    def __init__(self) -> None:
        self._arrived: int | None = None

    def take(self) -> None:
        """From now on the first signal is noted; a second one ends the process at once."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def check(self) -> None:
        """Raises `Stopped` if a signal has come. To be called often."""
        if self._arrived is not None:
            raise Stopped(self._arrived)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived = number
        for other in SIGNALS:
            signal.signal(other, _leave)


def _stop(number: int, frame: FrameType | None) -> None:
    for other in SIGNALS:
        signal.signal(other, _leave)
    raise Stopped(number)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
