"""What the page shows, as values: light to import, where gather.py reads them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.monitor.history import HistoryJson
from pipeline.output.accounts import RejectJson
from pipeline.output.manifests import Manifest
from pipeline.output.run_file import RunFile, Summary

EXAMPLES = 3  # of each reason
BIN_DEVIATIONS = 4.0  # of a channel's histogram: how far from the mean it goes


@dataclass(frozen=True, slots=True)
class Pictures:
    """What `report` is asked for: how many clips with their source frames, and whether to decode them (by `vae`)."""

    clips: int = 0
    decode: bool = False
    vae: str | None = None


LATENTS_ALONE = Pictures()


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """Counts over the clips of some shards. `outliers` are (id, what, value, median) of clips with unusual latents."""

    shards: int = 0
    clips: int = 0
    counts: Mapping[str, Counter[str]] = field(default_factory=dict)
    frames: tuple[int, ...] = ()
    caption_characters: tuple[int, ...] = ()
    outliers: tuple[tuple[str, str, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A clip as a JPEG: its latent in colours, between its frames and the decoded ones where there are such."""

    id: str
    jpeg: bytes
    note: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that the page shows. `histograms` has a row of counts for each channel, over `latents` clips."""

    summary: Summary
    run: RunFile
    root: str = ""
    examples: Mapping[str, Sequence[RejectJson]] = field(default_factory=dict)
    clips: ClipFacts = ClipFacts()
    history: tuple[HistoryJson, ...] = ()
    histograms: tuple[tuple[int, ...], ...] = ()
    latents: int = 0
    shown: tuple[Shown, ...] = ()


class Examples:
    """The first rejects of each reason, kept while manifests pass by."""

    def __init__(self) -> None:
        self.by_code: dict[str, list[RejectJson]] = {}
        self.shards: list[str] = []

    def of(self, manifests: Iterable[Manifest]) -> Iterator[Manifest]:
        for manifest in manifests:
            self.shards.append(manifest["shard"]["name"])
            for reject in manifest["rejects"]:
                kept = self.by_code.setdefault(f"{reject['stage']}/{reject['reason']}", [])
                if len(kept) < EXAMPLES:
                    kept.append({**reject, "key": f"{manifest['shard']['name']}/{reject['key']}"})
            yield manifest
