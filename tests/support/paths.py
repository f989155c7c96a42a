"""Where things lie."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
SHARED_VIDEOS = SHARED / "videos"
