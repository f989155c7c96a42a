"""How many frames each replica encoded, and when: what the report shows over time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from pipeline.monitor.events import Event, Progress
from pipeline.monitor.live import LiveJson

MOST_STEPS = 240


class _Live(TypedDict, total=False):
    """What older versions do not say. `ended_unix_seconds` is None while a run goes on, and where it was killed."""

    ended_unix_seconds: int | None
    live: LiveJson


class HistoryJson(_Live):
    """history/TIME.json: frames that each replica, by its number, encoded in each step since `began_unix_seconds`."""

    began_unix_seconds: int
    step_seconds: float
    frames: dict[str, list[int]]


@dataclass(slots=True)
class History:
    """Counts frames by replica and step. Steps become twice as long whenever there are more than MOST_STEPS."""

    began_unix_seconds: int
    began_at: float
    step_seconds: float = 1.0
    _frames: dict[int, list[int]] = field(default_factory=dict)

    def add(self, event: Event, now_seconds: float) -> None:
        if not isinstance(event, Progress) or not event.frames:
            return
        while (step := int((now_seconds - self.began_at) / self.step_seconds)) >= MOST_STEPS:
            self.step_seconds *= 2
            self._frames = {replica: _paired(steps) for replica, steps in self._frames.items()}
        steps = self._frames.setdefault(event.replica, [])
        steps += [0] * (step + 1 - len(steps))
        steps[step] += event.frames

    def to_json(self, ended_unix_seconds: int | None, live: LiveJson) -> HistoryJson:
        return {
            "began_unix_seconds": self.began_unix_seconds,
            "ended_unix_seconds": ended_unix_seconds,
            "live": live,
            "step_seconds": self.step_seconds,
            "frames": {str(replica): self._frames[replica] for replica in sorted(self._frames)},
        }


def rates_of(history: HistoryJson) -> Mapping[str, list[float]]:
    """Frames a second of each replica, in steps of the same number for all."""
    count = max(map(len, history["frames"].values()), default=0)
    return {
        replica: [frames / history["step_seconds"] for frames in steps] + [0.0] * (count - len(steps))
        for replica, steps in history["frames"].items()
    }


def _paired(steps: list[int]) -> list[int]:
    return [sum(steps[at : at + 2]) for at in range(0, len(steps), 2)]
