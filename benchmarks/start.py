"""What passes from the command to the first committed clip, beside Ray's own start.

    python -m benchmarks.start --rounds 3

The full-size CogVideoX encoder with random weights in a file, on the CPU, and one small clip. Ray alone and the run
take turns; the first run measures convolutions (`encoder.convolutions: auto`), as the first on a machine does. Writes
benchmarks/results/start.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from diffusers import AutoencoderKLCogVideoX

from benchmarks.machine import processor_and_cores
from pipeline.input.pack import pack
from pipeline.video.synthetic.videos import make_video

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "start.json"
FRAMES, HEIGHT_PX, WIDTH_PX, FPS = 9, 64, 96, 8
RAY = "import ray; ray.init(address='local', include_dashboard=False, log_to_driver=False); ray.shutdown()"
STEPS = {  # the event that ends a step, in order
    "Python, configuration, weights, Ray, replicas placed": "run_started",
    "the replica loads its encoder": "replica_joined",
    "a shard is assigned": "shard_begun",
    "read, decode, encode and commit": "slice_committed",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often Ray and the run take turns (default: 3)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="latentmill-start-") as folder:
        command = made(Path(folder))
        environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"}
        first = run(command, f"{folder}/out", environment)
        taken = [(ray_alone(), run(command, f"{folder}/out-{number}", environment)) for number in range(rounds)]
    steps = {step: round(statistics.median(one[step] for _, one in taken), 2) for step in STEPS}
    figures = {
        **processor_and_cores(),
        "rounds": rounds,
        "ray_alone_seconds": round(statistics.median(seconds for seconds, _ in taken), 2),
        "until_first_clip_seconds": round(statistics.median(sum(one.values()) for _, one in taken), 2),
        "first_run_on_a_machine_seconds": round(sum(first.values()), 2),
        "steps_seconds": steps,
    }
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(RESULTS.read_text())


def made(folder: Path) -> list[str]:
    """A checkpoint and a shard of one clip; the command that encodes it, without its output."""
    AutoencoderKLCogVideoX().save_pretrained(folder / "vae")
    (folder / "videos").mkdir()
    (folder / "videos" / "clip.mp4").write_bytes(make_video(FRAMES + 1, FPS, WIDTH_PX, HEIGHT_PX))
    pack([str(folder / "videos")], str(folder / "shards"), ["mp4"], 1)
    clip = [f"clip.frames={FRAMES}", f"clip.buckets=[{HEIGHT_PX}x{WIDTH_PX}]"]
    values = [f"input.shards={folder}/shards/*.tar", f"encoder.weights={folder}/vae", *clip, "runtime.log=json"]
    return [sys.executable, "-m", "jobs", "run", "configs/bench.yaml", *values]


def ray_alone() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", RAY], check=True, capture_output=True)
    return time.monotonic() - began


def run(command: list[str], out: str, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of each step, from the command on."""
    before = time.time()
    ended = subprocess.run(
        [*command, f"output.path={out}"], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    at = {line["event"]: datetime.fromisoformat(line["time"]).timestamp() for line in reversed(lines)}
    seconds = {}
    for step, event in STEPS.items():
        seconds[step], before = at[event] - before, at[event]
    return seconds


if __name__ == "__main__":
    main()
