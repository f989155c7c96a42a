"""The report in a real browser: light and dark, as wide as a phone and as a screen, and on paper.

Skipped where no Chromium is installed; Debian's package `chromium` is enough.
"""

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.makers import made_latent
from support.reports import made_data

from pipeline.audit.pictures import small_picture
from pipeline.audit.report.data import ClipFacts, ReportData, Shown
from pipeline.audit.report.page import render_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000")
WIDTHS_PX = (360, 1280)
THEMES = {"light": (1, "rgb(255, 255, 255)"), "dark": (0, "rgb(18, 23, 29)")}
LEAST_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3, level AA
LONG = "a-very-long-name-of-a-shard-without-any-blank-in-it-" * 4
MEASURE = """
<script>
onload = () => {
const looks = [...document.querySelectorAll("iframe")].map(frame => {
  const page = frame.contentDocument, root = page.documentElement, style = frame.contentWindow.getComputedStyle;
  const color = (name, what) => style(page.querySelector(name))[what];
  return {width: frame.clientWidth, needed: root.scrollWidth, height: root.scrollHeight,
    broken: [...page.images].filter(image => !image.naturalWidth).length, images: page.images.length,
    charts: page.querySelectorAll("svg").length, ink: color("body", "color"), paper: color("body", "backgroundColor"),
    soft: color(".note", "color"), card: color(".tile", "backgroundColor")};
});
document.body.innerHTML = ""; document.title = JSON.stringify(looks);
};
</script>
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
]


def full_page() -> ReportData:
    """A report with each kind of section, whose names are long."""
    reject = {"key": LONG, "window_index": -1, "detail": LONG}
    jpeg = small_picture(made_latent(1), np.full((9, 32, 48, 3), 128, np.uint8), None, 4)
    return made_data(
        root=f"s3://bucket/{LONG}",
        examples={"probe/not_a_video": [reject]},
        clips=ClipFacts(1, 1, {"codec": Counter({"h264": 3, LONG: 1})}),
        shown=(Shown(LONG, jpeg, "latent"),),
        history=({"began_unix_seconds": 0, "step_seconds": 10.0, "frames": {"0": [490, 980], "3": [0, 490, 490]}},),
    )


def browsed(page: Path, *options: str) -> str:
    assert BROWSER
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, *OPTIONS, profile, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def looks_of(folder: Path, report: str, *options: str) -> list[dict[str, Any]]:
    """What the browser says of the page at each of WIDTHS_PX."""
    text = html.escape(report)
    frames = (f'<iframe width="{width}" height="800" srcdoc="{text}"></iframe>' for width in WIDTHS_PX)
    page = folder / "harness.html"
    page.write_text(f"<title></title><body>{''.join(frames)}{MEASURE}")
    title = re.search(r"<title>(.*?)</title>", browsed(page, "--dump-dom", *options))
    assert title
    looks: list[dict[str, Any]] = json.loads(html.unescape(title[1]))
    return looks


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2 of two colours such as `rgb(18, 23, 29)`."""
    lighter, darker = sorted(map(luminance, (one, other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", THEMES)
def test_the_page_fits_and_can_be_read(tmp_path: Path, theme: str) -> None:
    preferred, paper = THEMES[theme]
    report = render_report(full_page())
    looks = looks_of(tmp_path, report, f"--blink-settings=preferredColorScheme={preferred}")
    assert [look["width"] for look in looks] == list(WIDTHS_PX)
    for look in looks:
        assert look["needed"] <= look["width"], "nothing has to be scrolled sideways but what says so"
        assert (look["images"], look["broken"]) == (1, 0)
        assert look["charts"] >= 3
        assert look["paper"] == paper
        for ink in (look["ink"], look["soft"]):
            assert contrast(ink, look["paper"]) >= LEAST_CONTRAST
            assert contrast(ink, look["card"]) >= LEAST_CONTRAST
    phone, screen = looks
    assert phone["height"] > screen["height"]


def test_the_page_can_be_printed(tmp_path: Path) -> None:
    page, printed = tmp_path / "report.html", tmp_path / "report.pdf"
    page.write_text(render_report(full_page()), "utf-8")
    browsed(page, f"--print-to-pdf={printed}")
    assert printed.read_bytes().startswith(b"%PDF")
    assert printed.stat().st_size > 10_000
