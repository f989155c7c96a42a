"""How many samples of a replica are on their way at once, so that a decoded clip always waits for the device."""

import math
import threading
from dataclasses import dataclass, field

LEAST_AHEAD = 4  # samples: one is encoded, one waits, and two may be slow
POLL_SECONDS = 0.2


def samples_ahead(decode_seconds: float, encode_seconds: float, cpus: int) -> int:
    """How many samples should be on their way, given what one takes to decode and to encode; 0 where unknown.

    Twice as many decoders as keep up on average, as videos differ; never fewer than LEAST_AHEAD, nor more than there
    are CPUs for this replica, which decode one sample each.
    """
    most = max(LEAST_AHEAD, cpus)
    if not decode_seconds or not encode_seconds:
        return most
    return min(most, max(LEAST_AHEAD, math.ceil(2 * decode_seconds / encode_seconds) + 2))


@dataclass(slots=True)
class Pace:
    """The samples of one replica that are on their way: how many there are, their bytes, and how many there may be.

    Shared by the threads of a replica. `cpus` are those that decode for it, `ahead_bytes` bounds videos and frames.
    """

    cpus: int = 1
    ahead_bytes: int = 1 << 62
    _samples: int = 0
    _bytes: int = 0
    _decoded: int = 0
    _decode_seconds: float = 0.0
    _encoded: int = 0
    _encode_seconds: float = 0.0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def begin(self, size_bytes: int, stopped: threading.Event) -> bool:
        """Waits until one more sample may be on its way, and counts it. False where `stopped` came first."""
        with self._changed:
            while not self.has_room(size_bytes):
                if stopped.is_set():
                    return False
                self._changed.wait(POLL_SECONDS)
            self._samples += 1
            self._bytes += size_bytes
        return not stopped.is_set()

    def end(self, size_bytes: int) -> None:
        """A sample is encoded, or given up."""
        with self._changed:
            self._samples -= 1
            self._bytes -= size_bytes
            self._changed.notify_all()

    def decoded(self, seconds: float) -> None:
        """Notes what a sample took to decode."""
        with self._changed:
            self._decoded += 1
            self._decode_seconds += seconds

    def encoded(self, seconds: float) -> None:
        """Notes what a sample took to encode."""
        with self._changed:
            self._encoded += 1
            self._encode_seconds += seconds

    def has_room(self, size_bytes: int) -> bool:
        """Whether one more sample may be on its way; a sample alone always may."""
        if not self._samples:
            return True
        decode_seconds = self._decode_seconds / max(1, self._decoded)
        encode_seconds = self._encode_seconds / max(1, self._encoded)
        most = samples_ahead(decode_seconds, encode_seconds, self.cpus) if self.cpus > 1 else 1
        return self._samples < most and self._bytes + size_bytes <= self.ahead_bytes
