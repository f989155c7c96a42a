"""The protocol of decoders, and the one that decodes in this process; cluster/decoder.py has the one that uses Ray."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Protocol

from encoder import LatentSpec, ReceptiveField
from pipeline.clips.plan import rules_of
from pipeline.config.load import Config
from pipeline.records import DecodeItem, Sample
from pipeline.video.decode import decode_sample


class Decoder(Protocol):
    """Starts decoding the clips of one of a sample's `clip.segments`.

    The items come when asked for, and None where there is nothing yet.
    """

    def start(self, sample: Sample, segment: int = 0) -> Generator[DecodeItem | None, None, None]: ...


@dataclass(frozen=True, slots=True)
class LocalDecoder:
    """Decodes in this process as items are asked for. For tests and debugging: a bad video can kill the process."""

    config: Config
    spec: LatentSpec
    receptive_field: ReceptiveField | None = None

    def start(self, sample: Sample, segment: int = 0) -> Generator[DecodeItem, None, None]:
        config = self.config
        rules = replace(rules_of(config, self.spec, self.receptive_field), spans=sample.spans, segment=segment)
        items = decode_sample(sample.video, config.clip, config.limits, config.input.strict, rules, config.filter)
        yield from (item for item in items if item is not None)
