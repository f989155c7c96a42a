"""The page as a whole: one file of HTML, without scripts and links, with everything from users escaped."""

from html import escape

from pipeline.audit.report.data import ReportData
from pipeline.audit.report.elements import note
from pipeline.audit.report.latents import captions, clips, latents, pictures
from pipeline.audit.report.sections import account, figures, made_by, rejects, seconds, state, throughput
from pipeline.audit.report.style import STYLE

VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1">'


def render_report(data: ReportData) -> str:
    """The report of a run as HTML. The same data give the same bytes."""
    summary, run = data.summary, data.run
    title = "complete" if not summary["shards_left"] else f"{summary['shards_left']:,} shards left"
    body = (
        f"<h1>Latentmill run, {escape(title)}</h1>",
        note(data.root) if data.root else "",
        state(data),
        figures(summary),
        account(summary),
        rejects(data),
        throughput(data.history),
        seconds(summary),
        clips(summary, data.clips),
        captions(summary, data.clips),
        latents(data),
        pictures(data),
        made_by(run, summary["parts_by_device"]),
    )
    head = f'<meta charset="utf-8">{VIEWPORT}<title>Latentmill run, {escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'
