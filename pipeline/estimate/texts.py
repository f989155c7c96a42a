"""What text embeddings of a run will take: bytes and device-hours, from the captions of a few samples."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from encoder import TextEncoder
from pipeline.config.load import Config
from pipeline.estimate.extrapolate import SECONDS_PER_HOUR, Quantity, SamplePreview, scaled_up
from pipeline.output.manifests import Manifest, read_manifests
from pipeline.output.paths import done_shards
from pipeline.spread import evenly
from pipeline.storage.store import Store
from pipeline.text.captions import captions_in_force, read_clips, units_of
from pipeline.text.load import load_text_encoder
from pipeline.text.parts import stored_array

TIMING_SECONDS = 30.0
BATCH_CAPTIONS = 16
MOST_SHARDS = 8  # finished ones whose captions are looked at


@dataclass(frozen=True, slots=True)
class TextEstimate:
    """What is expected for all rows, from `previewed` captions, `truncated` of which are cut off.

    `device_hours` come from `timed` captions on `device`.
    """

    previewed: int
    truncated: int
    timed: int
    captions: Quantity
    size_bytes: Quantity
    device_hours: Quantity
    device: str


@dataclass(frozen=True, slots=True)
class _Samples:
    """The captions of some samples, and how many samples there are of their kind."""

    captions: Sequence[Sequence[str]]
    total: float


def preview_texts(config: Config, left: Sequence[SamplePreview], samples_left: float, count: int) -> TextEstimate:
    """Embeds captions of about `count` samples on this machine: of those that are left, and of finished shards.

    Raises:
        UserError: the encoder or the table of captions cannot be used.
    """
    kinds = [_Samples([one.captions for one in left], samples_left), _finished(config, count)]
    loaded = load_text_encoder(config.texts, device="auto")
    captions = list(dict.fromkeys(caption for kind in kinds for one in kind.captions for caption in one))
    bytes_of, seconds, truncated = _measured(loaded, captions, config)
    typical = sum(bytes_of.values()) / max(1, len(bytes_of))  # of captions that there was no time for

    def scaled(of_caption: dict[str, float], otherwise: float) -> Quantity:
        parts = [
            scaled_up([sum(of_caption.get(text, otherwise) for text in one) for one in kind.captions], kind.total)
            for kind in kinds
        ]
        return parts[0] + parts[1]

    number = scaled({}, 1.0)
    each = seconds / max(1, len(bytes_of)) / SECONDS_PER_HOUR
    return TextEstimate(
        previewed=len(captions),
        truncated=truncated,
        timed=len(bytes_of),
        captions=number,
        size_bytes=scaled(bytes_of, typical),
        device_hours=Quantity(number.value * each, number.error * each),
        device=loaded.computed_by.get("device", "unknown"),
    )


def _finished(config: Config, count: int) -> _Samples:
    """The captions of samples of finished shards."""
    store = Store(config.output.path)
    manifests = [one for one in read_manifests(store, sorted(done_shards(store))) if one["parts"]]
    chosen = evenly(manifests, min(MOST_SHARDS, count))
    found = [one for manifest in chosen for one in _captions_of(config, store, manifest)]
    total = sum(manifest["samples_with_clips"] for manifest in manifests)
    return _Samples(found[:count], total)


def _captions_of(config: Config, store: Store, manifest: Manifest) -> list[list[str]]:
    """The captions of each sample of a shard that has some."""
    samples: dict[int, list[str]] = {}
    for clips in read_clips(store, manifest, captions_in_force(config.texts)).values():
        for unit in units_of(clips)[0]:
            samples.setdefault(unit.sample_index, []).extend(unit.captions)
    return list(samples.values())


def _measured(loaded: TextEncoder, captions: Sequence[str], config: Config) -> tuple[dict[str, float], float, int]:
    """Bytes of each caption that there was time to embed, the seconds that they took, and how many were cut off."""
    bytes_of: dict[str, float] = {}
    seconds, truncated = 0.0, 0
    loaded.encode(captions[:1])  # the first call also prepares kernels
    for begin in range(0, len(captions), BATCH_CAPTIONS):
        batch = captions[begin : begin + BATCH_CAPTIONS]
        began = time.perf_counter()
        encoded = loaded.encode(batch)
        seconds += time.perf_counter() - began
        for caption, one in zip(batch, encoded, strict=True):
            arrays = one.arrays.values()
            bytes_of[caption] = sum(len(stored_array(array, config.texts.dtype)["bytes"]) for array in arrays)
            truncated += bool(one.truncated)
        if seconds > TIMING_SECONDS:
            break
    return bytes_of, seconds, truncated
