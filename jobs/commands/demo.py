"""The command `demo`: makes small videos, packs them into shards, and runs the whole pipeline on them."""

import argparse
import json
from pathlib import Path

from jobs.arguments import Subparsers, add_command, path_text
from jobs.commands.run import run_config
from jobs.console import say
from pipeline.config.load import Config, load_config
from pipeline.errors import UserError
from pipeline.input.pack import pack
from pipeline.video.synthetic.scenes import SCENE_FPS, draw_scene, scene_of
from pipeline.video.synthetic.videos import make_video

CONFIG = Path(__file__).parents[2] / "configs" / "demo.yaml"
VIDEOS = 12
SHARD_SAMPLES = 4
SIZES_PX = ((192, 128), (128, 192), (144, 144))  # width, height


def add(subparsers: Subparsers) -> None:
    """Adds `demo`."""
    parser = add_command(subparsers, "demo", demo, "make small videos and run the whole pipeline on them, on the CPU")
    parser.add_argument(
        "out", nargs="?", type=path_text, default="out/demo", help="an empty folder (default: out/demo)"
    )


def demo(chosen: argparse.Namespace) -> int:
    config = make_demo(Path(chosen.out))
    code = run_config(config)
    say(f"latents: {config.output.path}/latents\nreport:  {config.output.path}/report.html")
    return code


def make_demo(out: Path) -> Config:
    """Writes videos and shards below `out` and returns the configuration for them.

    Raises:
        UserError: `out` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: name a new folder, or delete it")
    videos = out / "videos"
    videos.mkdir(parents=True)
    for number in range(VIDEOS):
        _write_video(videos, number)
    (videos / "clip-bad.mp4").write_text("<html>404 Not Found</html>")
    pack([str(videos)], str(out / "shards"), ("mp4",), SHARD_SAMPLES)
    return load_config(str(CONFIG), [f"input.shards={out / 'shards'}/*.tar", f"output.path={out / 'run'}"])


def _write_video(folder: Path, number: int) -> None:
    width_px, height_px = SIZES_PX[number % len(SIZES_PX)]
    frames = 40 + 5 * number
    video = make_video(frames, SCENE_FPS, width_px, height_px, seed=number, draw=draw_scene)
    (folder / f"clip-{number:02d}.mp4").write_bytes(video)
    (folder / f"clip-{number:02d}.txt").write_text(scene_of(number).caption)
    (folder / f"clip-{number:02d}.json").write_text(json.dumps({"seed": number, "frames": frames}))
