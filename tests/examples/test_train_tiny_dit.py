"""The example of a training: its losses fall, and a run that was stopped continues them with another world size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.paths import ROOT
from support.runs import MakeConfig
from support.text_runs import commit_rows, finish_texts, with_text

from examples.train_tiny_dit import Transformer, compare, loss_of, train, widths
from pipeline.dataset.loader import Latents

SCRIPT = ROOT / "examples" / "train_tiny_dit.py"
STOP, STEPS = 3, 6


@pytest.fixture
def root(make_config: MakeConfig) -> str:
    """A run of seven rows with texts."""
    config = make_config()
    commit_rows(config, shape=(2, 2, 4, 6))
    return finish_texts(with_text(config))


@pytest.mark.slow
def test_the_example_stops_and_goes_on_in_two_processes_as_if_it_had_not(root: str, tmp_path: Path) -> None:
    undisturbed = train(root, tmp_path / "undisturbed", "wan", STEPS)
    stopped = train(root, tmp_path / "stopped", "wan", STOP)
    assert stopped == undisturbed[:STOP]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    options = ["--text", "wan", "--steps", str(STEPS)]
    subprocess.run([*launch, root, str(tmp_path / "stopped"), *options], cwd=ROOT, check=True, capture_output=True)
    resumed = json.loads((tmp_path / "stopped" / "losses.json").read_text())
    assert resumed == pytest.approx(undisturbed, abs=1e-5)
    assert resumed[:STOP] == stopped


@pytest.mark.slow
def test_the_loss_of_a_batch_falls_while_its_noise_stays_the_same(root: str) -> None:
    torch.manual_seed(0)
    model, batch = Transformer(*widths(root, "wan")), next(iter(Latents(root, 4, 1, text="wan")))
    optimizer, losses = torch.optim.AdamW(model.parameters(), 5e-4), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(model, batch, step=0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < 0.9 * losses[0]


def test_the_example_fails_where_losses_differ_from_the_undisturbed_ones_or_do_not_fall(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fallen = [2.0] * 10 + [0.9] * 10
    compare(fallen, fallen)
    assert "0.45 of it" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="differ by more"):
        compare(fallen, [*fallen[:-1], 0.901])
    with pytest.raises(SystemExit, match="fall to a half"):
        compare([2.0] * 20, [2.0] * 20)
