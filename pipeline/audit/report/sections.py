"""The sections of the page on the run itself: how it stands, what made it, what it took, and what became of samples."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from pipeline.audit.report.advice import advice
from pipeline.audit.report.charts import flow, over_time, strips
from pipeline.audit.report.data import ReportData
from pipeline.audit.report.elements import (
    NONE,
    bars,
    beside,
    code,
    facts,
    folded,
    note,
    paragraph,
    section,
    table,
    tiles,
    titled,
)
from pipeline.monitor.history import HistoryJson, rates_of
from pipeline.monitor.stages import ENCODE, IDLE
from pipeline.monitor.words import duration, number, size
from pipeline.output.run_file import RunFile, Summary, Totals

LOSSES = {"unused_file": "files not used:", "replaced_text": "texts with replaced characters or cells"}
SIMULATED = "The encoder was simulated: its latents are noise, and its times those of no device."
STRIPS = 32  # replicas that are drawn one by one


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


def state(data: ReportData) -> str:
    """Whether the run is complete, and what to do now."""
    summary, root = data.summary, data.root or "OUT"
    left, failed = summary["shards_left"], summary["shards_failed"]
    if not left:
        how = "Complete: every shard has its manifest."
        do = f"latentmill verify {root}\nlatentmill status {root}"
    else:
        how = f"Not complete: {left:,} shards left. The same command goes on where the run stopped:"
        do = "latentmill run CONFIG ..."
    given_up = titled("Shards given up", table(("shard", "last error"), failed.items())) if failed else ""
    simulated = paragraph(SIMULATED) if summary.get("simulated") else ""
    kind = "state open" if left or failed else "state"
    return f'<div class="{kind}">{paragraph(how)}</div>{code(do)}{given_up}{simulated}'


def figures(summary: Summary) -> str:
    busy = summary["encoder_busy_fraction"]
    return tiles(
        {
            "clips": f"{summary['rows']:,}",
            "samples": f"{summary['samples']:,}",
            "samples rejected": f"{summary['samples_rejected']:,}",
            "shards done": f"{summary['shards']:,}",
            "in parts": size(summary["size_bytes"]),
            "device busy": "n/a" if busy is None else f"{busy:.1%}",
        }
    )


def made_by(run: RunFile, parts_by_device: Mapping[str, int]) -> str:
    """Encoder, rules and libraries; the whole configuration on demand."""
    identity: Mapping[str, Any] = run.get("identity", {})
    encoder, clip, output = (identity.get(name, {}) for name in ("encoder", "clip", "output"))
    created = run.get("created_unix_seconds")
    values = {
        "encoder": " ".join(filter(None, (encoder.get("name"), encoder.get("dtype")))),
        "weights (sha256)": encoder.get("weights_sha256", ""),
        "clips": ", ".join(f"{name} {_plain(clip[name])}" for name in ("frames", "fps", "buckets") if name in clip),
        "latents": ", ".join(str(output[name]) for name in ("posterior", "dtype") if name in output),
        "fingerprint": run["fingerprint"],
        "begun": f"{datetime.fromtimestamp(created, timezone.utc):%Y-%m-%d %H:%M} UTC" if created else "",
        "libraries": ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items()),
    }
    several = note("Parts by what computed them; the last bits of latents differ between kinds.")
    return section(
        "What made it",
        facts({name: value for name, value in values.items() if value}),
        several + bars(parts_by_device) if len(parts_by_device) > 1 else facts(parts_by_device),
        folded("Configuration", code(_lines(run["config"]))),
    )


def throughput(history: tuple[HistoryJson, ...]) -> str:
    """Frames a second over the time of each run, and by replica."""
    if not any(one["frames"] for one in history):
        return ""
    return section("Throughput", *(_of_run(one) for one in history if one["frames"]))


def _of_run(history: HistoryJson) -> str:
    rates, step = rates_of(history), history["step_seconds"]
    together = [sum(each) for each in zip(*rates.values(), strict=True)]
    frames = {replica: sum(steps) for replica, steps in history["frames"].items()}
    took = duration(step * len(together))
    began = f"{datetime.fromtimestamp(history['began_unix_seconds'], timezone.utc):%Y-%m-%d %H:%M} UTC"
    named = {f"replica {replica}": rates[replica] for replica in list(rates)[:STRIPS]}
    more = note(f"{len(rates) - STRIPS:,} more replicas are not drawn") if len(rates) > STRIPS else ""
    return titled(
        f"Run of {began}: {sum(frames.values()):,} frames in {took} by {len(rates):,} replicas",
        over_time("frames a second", together, step)
        + note("frames a second, all replicas")
        + strips("frames a second by replica", named, step)
        + note("each replica; a stronger colour is faster")
        + more,
    )


def seconds(summary: Summary) -> str:
    """Where the time of replicas went, and what the encoder alone would have made in it."""
    spent, rows = summary["seconds_by_stage"], summary["rows"]
    working, idle = spent.get(ENCODE, 0.0), spent.get(IDLE, 0.0)
    limit = ""
    if working and rows:
        values = {
            "the encoder's own limit": f"{number(rows / working)} clips a second on one device, were it never idle",
            "reached": f"{number(rows / (working + idle))} clips a second ({working / (working + idle):.1%} of it)",
        }
        limit = facts(values)
    why = note(
        "encode: the device computed. device_idle: it had nothing to do, which is what to look at first: more CPUs for "
        "decoding shorten wait_for_frames. Other stages go on beside it and may add up to more than the time."
    )
    return section("Where the seconds of replicas go", limit, bars(spent), why)


def account(summary: Summary) -> str:
    """From samples to those with clips, and to what was lost or left out."""
    samples, kept = summary["samples"], summary["samples_with_clips"]
    rejected, filtered = summary["samples_rejected"], summary["samples_filtered"]
    parts = [
        (f"with clips: {summary['rows']:,} rows", kept, "good"),
        ("rejected", rejected, "loss"),
        ("filtered", filtered, "left"),
        ("removed", samples - kept - rejected - filtered, "left"),
    ]
    lost = losses_of(summary)
    return section(
        "Account",
        flow("what became of the samples", ("samples", samples), parts) if samples else NONE,
        titled("In the input, and in no row", bars(lost)) if lost else "",
        *(titled(f"Text embeddings {name}", facts(_text_counts(of))) for name, of in summary.get("texts", {}).items()),
    )


def _text_counts(totals: Mapping[str, Any]) -> dict[str, Any]:
    names = ("shards", "captions", "tokens", "truncated", "rejects", "parts", "size_bytes")
    return {name.replace("_", " "): totals[name] for name in names} | dict(totals["rejects_by_reason"])


def rejects(data: ReportData) -> str:
    """Every reason with its count, what to do, and some of the samples."""
    rejected, filtered = data.summary["rejects_by_reason"], data.summary["filtered_by_reason"]
    return section(
        "Rejects by stage and reason",
        bars(rejected),
        *_reasons(data, rejected),
        titled("Filtered and removed", bars(filtered)) if filtered else "",
        *_reasons(data, filtered),
    )


def _reasons(data: ReportData, counts: Mapping[str, int]) -> Iterator[str]:
    for reason in counts:
        rows = [(f"{one['key']}{_window(one['window_index'])}", one["detail"]) for one in data.examples.get(reason, ())]
        what = advice(reason)
        yield titled(reason, beside(paragraph(f"What to do: {what}") if what else "", table(("for example", ""), rows)))


def _window(index: int) -> str:
    return "" if index < 0 else f":{index}"


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _lines(tree: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{key}:\n{_lines(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{key}: {value}")
    return "\n".join(lines)
