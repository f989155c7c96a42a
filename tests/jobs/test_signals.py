"""The first signal ends a command on its way out, the second at once, and other programs get their handlers back."""

import signal
import subprocess
import sys

import pytest
from support.paths import ROOT

from jobs.signals import SIGNALS, DeferredSignals, Stopped, stoppable, take_signals

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_stops_what_runs_and_says_how(number: signal.Signals) -> None:
    with pytest.raises(Stopped) as caught, stoppable():
        signal.raise_signal(number)
    assert (caught.value.name, caught.value.exit_code) == (number.name, EXIT_CODES[number])


def test_a_signal_is_not_an_exception_that_handlers_catch() -> None:
    assert not issubclass(Stopped, Exception)


@pytest.mark.parametrize("number", EXIT_CODES)
def test_afterwards_signals_do_what_they_did_before(number: signal.Signals) -> None:
    before = handlers()
    with stoppable():
        assert handlers() != before
    assert handlers() == before
    with pytest.raises(Stopped), stoppable():
        signal.raise_signal(number)
    assert handlers() == before


def test_signals_that_another_library_took_are_taken_back() -> None:
    with stoppable():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        take_signals()
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("first", EXIT_CODES)
@pytest.mark.parametrize("second", EXIT_CODES)
def test_a_second_signal_leaves_at_once(first: signal.Signals, second: signal.Signals) -> None:
    program = f"""
import signal
from jobs.signals import Stopped, stoppable
with stoppable():
    try:
        signal.raise_signal({first:d})
    except Stopped:
        print("cleaning up", flush=True)
        signal.raise_signal({second:d})
        print("still there", flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (EXIT_CODES[second], "cleaning up\n", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_deferred_signal_stops_at_the_next_check(number: signal.Signals) -> None:
    deferred = DeferredSignals()
    with stoppable():
        deferred.take()
        deferred.check()
        signal.raise_signal(number)
        with pytest.raises(Stopped) as stopped:
            deferred.check()
    assert stopped.value.exit_code == 128 + number
