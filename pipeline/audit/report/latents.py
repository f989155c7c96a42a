"""The sections of the page on what was made: clips and their sources, captions, latents by channel, pictures."""

from collections import Counter
from collections.abc import Sequence

from pipeline.audit.report.charts import histogram, small_multiples
from pipeline.audit.report.data import BIN_DEVIATIONS, ClipFacts, ReportData
from pipeline.audit.report.elements import NONE, bars, beside, note, picture, section, table, titled
from pipeline.output.run_file import Summary
from pipeline.output.statistics import channels, statistics_from_json

MOST_NAMED = 12  # of the values of a column
BINS = 30
SMALL_PX = (110.0, 46.0)


def clips(summary: Summary, found: ClipFacts) -> str:
    """How many there are of each shape and length, and what they were taken from."""
    of = note(f"lengths and sources of {found.clips:,} clips of {found.shards:,} of {summary['shards']:,} shards")
    return section(
        "Clips",
        titled("Rows by bucket (latent c x t x h x w)", bars(summary["rows_by_bucket"])),
        of if found.clips else "",
        beside(
            titled("Frames of a clip", bars(_most(Counter(map(str, found.frames))))) if found.frames else "",
            *(titled(name, bars(_most(counts))) for name, counts in found.counts.items() if counts),
        ),
    )


def _most(counts: "Counter[str]") -> dict[str, int]:
    """The most frequent values, and how many clips have others."""
    named = dict(sorted(counts.most_common(MOST_NAMED), key=lambda one: (-one[1], one[0])))
    others = sum(counts.values()) - sum(named.values())
    return named | ({"others": others} if others else {})


def captions(summary: Summary, found: ClipFacts) -> str:
    """How long they are, how many clips have none, and how many were cut off."""
    lengths = [length for length in found.caption_characters if length]
    texts = summary.get("texts", {})
    rows = [("clips without a caption", f"{summary['clips_without_caption']:,}")]
    rows += [
        (f"captions cut off by {name}", f"{of['truncated']:,} of {of['captions']:,}") for name, of in texts.items()
    ]
    drawn = ""
    if lengths:
        longest = max(lengths)
        counts = [0] * BINS
        for length in lengths:
            counts[min(BINS - 1, (length - 1) * BINS // longest)] += 1
        drawn = histogram("characters of captions", counts, ends=f"1 to {longest:,} characters")
    return section("Captions", table(("", ""), rows, frozenset({1})), drawn)


def latents(data: ReportData) -> str:
    """Mean, deviation and reach of each channel, the shape of its values, and the clips that stand out."""
    statistics = statistics_from_json(data.summary["latent_statistics"])
    rows = [
        (str(channel), *(f"{value:.4f}" for value in values)) for channel, values in enumerate(channels(statistics))
    ]
    numbers = frozenset(range(1, 5))
    table_ = table(("channel", "mean", "std", "least", "largest"), rows, numbers) if statistics.count else NONE
    unusual = [
        (id_, name.replace("_", " "), f"{value:.4g}", f"{usual:.4g}") for id_, name, value, usual in data.clips.outliers
    ]
    return section(
        "Latents by channel (unscaled means)",
        table_,
        titled("Values", _histograms(data)) if data.histograms else "",
        titled("Clips that stand out", table(("clip", "of the latent", "is", "usually"), unusual)) if unusual else "",
        note("latentmill show OUT ID --picture FILE draws one of them") if unusual else "",
    )


def _histograms(data: ReportData) -> str:
    drawn = [(f"channel {at}", _small(f"values of channel {at}", counts)) for at, counts in enumerate(data.histograms)]
    reach = f"from {BIN_DEVIATIONS:g} standard deviations below the mean to as many above"
    return small_multiples(drawn) + note(f"{data.latents:,} clips, {reach}")


def _small(title: str, counts: Sequence[int]) -> str:
    return histogram(title, counts, *SMALL_PX)


def pictures(data: ReportData) -> str:
    if not data.shown:
        return ""
    how = note("The three directions in which the channels of a latent vary most are shown as red, green and blue.")
    return section("Pictures", how, *(picture(one.jpeg, f"{one.id}: {one.note}") for one in data.shown))
