"""The command `pack`: folders of videos and images, with captions and JSON beside them, into WebDataset shards."""

import argparse

from jobs.arguments import Subparsers, add_command, positive
from jobs.console import say
from pipeline.config.input import IMAGE_EXTENSIONS, InputConfig
from pipeline.input.pack import pack as pack_folders


def add(subparsers: Subparsers) -> None:
    """Adds `pack`."""
    parser = add_command(subparsers, "pack", pack, "pack folders of videos and their .txt and .json files into shards")
    parser.add_argument("videos", nargs="+", help="folders or video files")
    parser.add_argument("out", help="folder or fsspec URL for the shards")
    images = f"pack images too ({', '.join(IMAGE_EXTENSIONS)}), but for those beside a video of the same name"
    parser.add_argument("--images", action="store_true", help=images)
    parser.add_argument("--shard-samples", type=positive, default=1000, help="samples in a shard (default: 1000)")


def pack(chosen: argparse.Namespace) -> int:
    extensions = InputConfig.model_fields["video"].default
    images = IMAGE_EXTENSIONS if chosen.images else ()
    packed = pack_folders(chosen.videos, chosen.out, extensions, chosen.shard_samples, images)
    say(f"{packed.samples:,} samples in {len(packed.urls):,} shards: {packed.urls[0]} ...")
    for name, count in packed.passed_over.items():
        say(f"  {count:,} passed over: {name}")
    for name, count in packed.unused.items():
        say(f"  {count:,} not used: {name}")
    if packed.without_caption:
        say(f"  {packed.without_caption:,} without a .txt or .json beside them")
    return 0
