"""The HTML report of a run: one self-contained file, with everything from users escaped."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from pipeline.output.run_file import RunFile, Summary, Totals
from pipeline.output.statistics import LatentStatistics, channels, statistics_from_json

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1d2733 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #3b7dd8; height: .7rem; display: inline-block } .note { color: #5b6775 }
"""
NONE = '<p class="note">none</p>'
LOSSES = {"unused_file": "files not used:", "replaced_text": "texts with replaced characters or cells"}
SIMULATED = "The encoder was simulated: its latents are noise, and its times those of no device."


def render_report(summary: Summary, run: RunFile) -> str:
    """The report of a run as HTML, from summary.json and run.json."""
    state = "complete" if not summary["shards_left"] else f"{summary['shards_left']:,} shards left"
    body = [
        f"<h1>Latentmill run, {escape(state)}</h1>",
        f'<p class="note">fingerprint {escape(run["fingerprint"])}</p>',
        f"<p><strong>{SIMULATED}</strong></p>" if summary.get("simulated") else "",
        _section("Account", _numbers(_counts(summary))),
        _section("Time of the replicas, seconds", _bars(summary["seconds_by_stage"])),
        _section("Rejects by stage and reason", _bars(summary["rejects_by_reason"])),
        _section("Filtered samples by reason", _bars(summary["filtered_by_reason"])),
        _section("Of the input, not in the rows", _bars(losses_of(summary))),
        _section("Rows by bucket (latent c x t x h x w)", _bars(summary["rows_by_bucket"])),
        *(_section(f"Text embeddings {name}", _numbers(_text_counts(of))) for name, of in _texts(summary)),
        _section("Shards given up", _errors(summary["shards_failed"])),
        _section("Parts by what computed them (last bits differ between kinds)", _bars(summary["parts_by_device"])),
        _section("Latent means per channel", _channels(statistics_from_json(summary["latent_statistics"]))),
        _section("Configuration", f"<pre>{escape(_pretty(run['config']))}</pre>"),
    ]
    head = f'<meta charset="utf-8"><title>Latentmill run</title><style>{STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(body)}</body></html>\n"


def losses_of(totals: Totals) -> dict[str, int]:
    """What stood in the input and is in no row, or not as it stood, by name; none of what did not occur."""
    counts = {
        "clips without a caption": totals["clips_without_caption"],
        "files that are hidden or have no extension": totals["ignored_files"],
    }
    for name, count in totals["losses"].items():
        kind, _, extension = name.partition(" ")
        counts[f"{LOSSES[kind]} {extension}".strip()] = count
    return {name: count for name, count in counts.items() if count}


def _counts(summary: Summary) -> dict[str, Any]:
    busy = summary["encoder_busy_fraction"]
    return {
        "shards done": summary["shards"],
        "samples": summary["samples"],
        "samples with clips": summary["samples_with_clips"],
        "samples rejected": summary["samples_rejected"],
        "samples filtered": summary["samples_filtered"],
        "rows": summary["rows"],
        "rejects": summary["rejects"],
        "parts": summary["parts"],
        "bytes": summary["size_bytes"],
        "encoder busy": "n/a" if busy is None else f"{busy:.1%}",
    }


def _texts(summary: Summary) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return summary.get("texts", {}).items()


def _text_counts(totals: Mapping[str, Any]) -> dict[str, Any]:
    names = ("shards", "captions", "tokens", "truncated", "rejects", "parts", "size_bytes")
    return {name.replace("_", " "): totals[name] for name in names} | dict(totals["rejects_by_reason"])


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{content}"


def _numbers(values: Mapping[str, Any]) -> str:
    return _table((name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in values.items())


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = (f'<tr><td>{escape(name)}</td><td class="number">{escape(value)}</td></tr>' for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _bars(values: Mapping[str, float]) -> str:
    if not values:
        return NONE
    largest = max(values.values()) or 1
    rows = (
        f'<tr><td>{escape(name)}</td><td class="number">{value:,}</td>'
        f'<td><span class="bar" style="width:{16 * value / largest:.2f}rem"></span></td></tr>'
        for name, value in values.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _errors(failed: Mapping[str, str]) -> str:
    return _table(failed.items()) if failed else NONE


def _channels(statistics: LatentStatistics) -> str:
    if not statistics.count:
        return NONE
    rows = ["<tr><th>channel</th><th>mean</th><th>std</th><th>least</th><th>largest</th></tr>"]
    for channel, values in enumerate(channels(statistics)):
        cells = "".join(f'<td class="number">{value:.4f}</td>' for value in values)
        rows.append(f"<tr><td>{channel}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _pretty(tree: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{key}:\n{_pretty(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{key}: {value}")
    return "\n".join(lines)
