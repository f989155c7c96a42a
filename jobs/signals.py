"""SIGINT and SIGTERM end a command cleanly: code that is interrupted cleans up as the exception passes through it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal arrived. Like KeyboardInterrupt it is not an `Exception`, so that handlers of faults let it pass."""

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
    """Inside, a signal raises `Stopped`; afterwards the previous handlers are back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    take_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class DeferredSignals:
    """Signals that are noted and raised later, around library calls in which a handler must not raise.

    An exception raised inside Ray's calls becomes a SystemError, and the signal is lost.
    """

    def __init__(self) -> None:
        self._arrived: int | None = None
        self._taken = False

    def take(self) -> None:
        """Installs handlers: the first signal is noted, a second one ends the process at once."""
        self._taken = True
        for number in SIGNALS:
            signal.signal(number, self._note)

    def check(self) -> None:
        """Raises `Stopped` if a signal has arrived; call it often.

        The first call installs the handlers: call it once Ray, which installs some of its own, is connected.
        """
        if not self._taken:
            self.take()
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
