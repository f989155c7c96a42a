"""The program of the page on training, which cuts audio to clips, runs on the index of a run."""

import subprocess
import sys
from pathlib import Path

from support.exports import ONE, all_rows, made_run
from support.paths import ROOT


def test_audio_is_cut_to_the_times_of_each_clip(tmp_path: Path) -> None:
    _, program = (ROOT / "docs" / "training.md").read_text().split("```python\n")
    root = made_run(tmp_path, "tiny").output.path
    command = [sys.executable, "-c", program.partition("```")[0], root]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [row.id for _, row in all_rows((ONE,) * 4)]
    frames = round(9 / 8 * 25)  # nine frames at eight a second
    assert done.stdout.splitlines() == [f"{id_} (8, {frames}, 16)" for id_ in rows]
