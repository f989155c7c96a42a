"""What the page shows besides the totals: examples of rejects, facts of clips, some latents and pictures, the history.

Of large runs some shards and some clips are read, evenly spread.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from statistics import median
from typing import Any

import numpy as np

from encoder import VideoDecoder
from pipeline.audit.history_file import read_history
from pipeline.audit.pictures import small_picture
from pipeline.audit.redecode import aligned, psnr_db
from pipeline.audit.reencode import frames_of
from pipeline.audit.report.data import BIN_DEVIATIONS, EXAMPLES, ClipFacts, Examples, Pictures, ReportData, Shown
from pipeline.config.load import recorded_config
from pipeline.errors import LatentmillError, UserError
from pipeline.latents.load import load_decoder
from pipeline.output.index import read_index
from pipeline.output.latent_bytes import latent_of
from pipeline.output.manifests import read_several
from pipeline.output.parts import Footer, first_row
from pipeline.output.paths import latent_files
from pipeline.output.run_file import RunFile, Summary, read_run
from pipeline.output.statistics import channels, statistics_of
from pipeline.records import FloatLatent
from pipeline.spread import evenly
from pipeline.storage.store import Store
from pipeline.storage.urls import public_url

SHARDS_READ, LATENTS_READ = 64, 12
FRAMES_READ, FRAMES_DECODED = 64, 500  # of a clip: latent frames for histograms, frames of a video for pictures
BINS = 24  # of a channel's histogram
FAR = 8.0  # deviations from the median, estimated by the median deviation, beyond which a clip is named
NAMED = 10
OF_CLIP = ("id", "num_frames", "source_width", "source_height", "source_fps", "codec", "color_transfer", "caption")
OF_VALUES = ("latent_mean", "latent_std", "latent_absmax")


def gather(store: Store, summary: Summary, run: RunFile, examples: Examples, pictures: Pictures) -> ReportData:
    """Reads what the page needs from an output root."""
    latents: list[FloatLatent] = []
    shown: list[Shown] = []
    decoder = load_decoder(recorded_config(read_run(store)).encoder, pictures.vae) if pictures.decode else None
    for row, footer in _some_rows(store):
        latents.append(latent_of(row)[:, :FRAMES_READ].copy())
        if len(shown) < (pictures.clips or EXAMPLES):
            shown.append(_shown(store, row, footer, pictures.clips > 0, decoder))
    return ReportData(
        summary=summary,
        run=run,
        root=public_url(store.root),
        examples=examples.by_code,
        clips=clip_facts(store, examples.shards),
        history=read_history(store),
        histograms=histograms(latents),
        latents=len(latents),
        shown=tuple(shown),
    )


def _some_rows(store: Store) -> Iterator[tuple[dict[str, Any], Footer]]:
    """The first rows of some parts, without those of damaged ones, which `verify` names."""
    for path in evenly(list(latent_files(store)), LATENTS_READ):
        with suppress(ValueError), store.open(path) as file:
            if found := first_row(file, lambda _: True):
                yield found


def clip_facts(store: Store, shards: Sequence[str]) -> ClipFacts:
    """Counts from the indexes of some shards."""
    chosen = evenly(shards, SHARDS_READ)
    rows = [row for of_shard in read_several(lambda shard: _described(store, shard), chosen) for row in of_shard]
    counts = {
        "source pictures (width x height)": Counter(f"{row['source_width']}x{row['source_height']}" for row in rows),
        "source frames a second": Counter(f"{row['source_fps']:.4g}" for row in rows),
        "codec": Counter(row["codec"] for row in rows),
        "transfer": Counter(_transfer(row["color_transfer"]) for row in rows),
    }
    return ClipFacts(
        shards=len(chosen),
        clips=len(rows),
        counts=counts,
        frames=tuple(row["num_frames"] for row in rows),
        caption_characters=tuple(len(row["caption"]) for row in rows),
        outliers=tuple(outliers(rows)),
    )


def _described(store: Store, shard: str) -> list[dict[str, Any]]:
    with suppress(ValueError, OSError):  # a damaged index, which `verify` names
        return list(read_index(store, shard, (*OF_CLIP, *OF_VALUES)).to_pylist())
    return []


def _transfer(name: str) -> str:
    return f"{name} (HDR)" if name in ("smpte2084", "arib-std-b67") else name


def outliers(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, float, float]]:
    """The clips whose latents are farthest from the others, if any is far."""
    found = []
    for name in OF_VALUES:
        values = [row[name] for row in rows]
        if len(values) < BINS:
            continue
        middle = median(values)
        deviation = 1.4826 * median(abs(value - middle) for value in values)
        far = [(abs(row[name] - middle) / deviation, row) for row in rows] if deviation else []
        found += [(how, row["id"], name, row[name], middle) for how, row in far if how > FAR]
    return [(id_, name, value, middle) for _, id_, name, value, middle in sorted(found, reverse=True)[:NAMED]]


def histograms(latents: Sequence[FloatLatent]) -> tuple[tuple[int, ...], ...]:
    """For each channel, how often values lie where between `BIN_DEVIATIONS` below and above its mean."""
    if not latents:
        return ()
    flat = np.concatenate([latent.reshape(len(latent), -1) for latent in latents], axis=1)
    rows = []
    for values, (mean, deviation, *_) in zip(flat, channels(statistics_of(flat)), strict=True):
        reach = BIN_DEVIATIONS * max(deviation, 1e-9)
        counts, _ = np.histogram(values, BINS, (mean - reach, mean + reach))
        rows.append(tuple(int(count) for count in counts))
    return tuple(rows)


def _shown(
    store: Store, row: Mapping[str, Any], footer: Footer, with_frames: bool, decoder: VideoDecoder | None
) -> Shown:
    """A picture of a clip, with the frames that it was made of, and decoded, where these are asked for."""
    frames, decoded, said = None, None, "latent"
    if with_frames and row["num_frames"] > FRAMES_DECODED:
        said = f"the latent alone: {row['num_frames']:,} frames are too many for this page"
    elif with_frames:
        try:
            frames, said = frames_of(store, row, footer), "source frames above the latent"
        except LatentmillError as error:
            said = f"the latent alone: {error}"
    if decoder is not None and frames is not None and not row.get("continues"):
        try:
            decoded = aligned(decoder.decode(latent_of(row)), frames)
        except ValueError as error:
            raise UserError(f"{row['id']} cannot be decoded: {error}") from None
        said = f"source frames, latent, decoded frames: PSNR {psnr_db(frames, decoded):.1f} dB"
    jpeg = small_picture(latent_of(row), frames, decoded, footer["encoder"]["temporal_ratio"])
    return Shown(row["id"], jpeg, said)
