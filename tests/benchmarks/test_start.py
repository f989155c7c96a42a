"""The steps of a start are the times between a run's own lines."""

import json
import subprocess
import time
from datetime import datetime, timezone

import pytest

from benchmarks import start
from benchmarks.start import STEPS, run


def test_the_steps_are_the_times_between_the_first_events_of_their_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.time()
    events = [*STEPS.values(), "slice_committed", "run_ended"]
    lines = [
        json.dumps({"event": event, "time": datetime.fromtimestamp(began + number, timezone.utc).isoformat()})
        for number, event in enumerate(events, start=1)
    ]
    said = subprocess.CompletedProcess([], 0, "", "\n".join(lines))
    monkeypatch.setattr(start.time, "time", lambda: began)
    monkeypatch.setattr(start.subprocess, "run", lambda *_, **__: said)
    assert list(run(["run"], "out", {}).values()) == pytest.approx([1.0] * len(STEPS))
