"""What was looked at, whether it is in order, what it means for a run, and what to do."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`ok`: in order. `warn`: a run works, but slower or otherwise than one may think. `bad`: a run would fail.

    `found` says what is there and what that means, `advice` what to do about it.
    """

    level: Level
    subject: str
    found: str
    advice: str = ""


def ok(subject: str, found: str) -> Finding:
    return Finding("ok", subject, found)


def warn(subject: str, found: str, advice: str) -> Finding:
    return Finding("warn", subject, found, advice)


def bad(subject: str, found: str, advice: str) -> Finding:
    return Finding("bad", subject, found, advice)
