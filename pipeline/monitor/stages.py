"""The stages of a replica's time that are counted against each other: what keeps a device busy, and what does not."""

from collections.abc import Mapping

ENCODE, IDLE = "encode", "device_idle"  # as manifests and metrics name them


def busy_fraction(seconds: Mapping[str, float]) -> float | None:
    """The share of the time of devices in which they encoded, of seconds by stage; None where none has."""
    encoding = seconds.get(ENCODE, 0.0)
    whole = encoding + seconds.get(IDLE, 0.0)
    return round(encoding / whole, 4) if whole else None
