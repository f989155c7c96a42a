"""The demo: small videos of its own making, packed into shards, and the configuration that runs on them.

It does not run the pipeline: commands.py does, as for any configuration.
"""

import json
from pathlib import Path

from pipeline.config.load import Config, load_config
from pipeline.errors import UserError
from pipeline.input.pack import pack
from pipeline.video.synthetic import make_video

CONFIG = Path(__file__).parents[2] / "configs" / "demo.yaml"
VIDEOS = 12
SHARD_SAMPLES = 4
SIZES_PX = ((192, 128), (128, 192), (144, 144))  # width, height


def make_demo(out: Path) -> Config:
    """Writes videos and shards below `out` and returns the configuration for them.

    Raises:
        UserError: `out` holds something already.
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
    video = make_video(frames, 16, width_px, height_px, seed=number)
    (folder / f"clip-{number:02d}.mp4").write_bytes(video)
    (folder / f"clip-{number:02d}.txt").write_text(f"a moving pattern, number {number}")
    (folder / f"clip-{number:02d}.json").write_text(json.dumps({"seed": number, "frames": frames}))
