"""How a device spent its time."""

from typing import NamedTuple


class DeviceSeconds(NamedTuple):
    """Time in which a device computed, and in which it was idle between two pieces of work."""

    busy: float
    idle: float
