"""What a task asks of a decoder, and the one that works in the same process.

It does not decode (decode.py) or start other processes (ray_decoder.py).
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from encoder.recall import Recall
from encoder.spec import LatentSpec
from pipeline.clips import ClipRules
from pipeline.config import Config
from pipeline.decode import decode_sample
from pipeline.records import DecodeItem, Sample


class Decoder(Protocol):
    """Starts decoding a sample; the items come when asked for."""

    def start(self, sample: Sample) -> Generator[DecodeItem, None, None]: ...


@dataclass(frozen=True, slots=True)
class LocalDecoder:
    """Decodes in this process, when the items are asked for: for tests and debuggers, a bad video can kill it."""

    config: Config
    spec: LatentSpec
    recall: Recall | None = None

    def start(self, sample: Sample) -> Generator[DecodeItem, None, None]:
        config, chunk_frames = self.config, self.config.encoder.chunk_frames
        rules = ClipRules(self.spec, chunk_frames, sample.spans, sample.segment, self.recall)
        items = decode_sample(sample.video, config.clip, config.limits, config.input.strict, rules, config.filter)
        yield from (item for item in items if item is not None)
