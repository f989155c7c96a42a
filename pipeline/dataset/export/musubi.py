"""musubi-tuner, Wan: safetensors of scaled latents and of unpadded texts, and a dataset for each picture size."""

import json
from collections.abc import Iterable, Iterator, Sequence

from pipeline.dataset.export.target import TINY, Clip, Create, Row, Shape, Target
from pipeline.dataset.export.tensor_file import tensor_file

CONFIG, NO_VIDEOS = "dataset.toml", "videos.jsonl"
ABOUT = {"architecture": "wan", "format_version": "1.0.1"}


class Musubi(Target):
    encoders = frozenset({"wan", TINY})

    def path(self, row: Row) -> str:
        size = f"{row.width}x{row.height}"
        return f"cache/{size}/{row.name}_00000-{row.num_frames:03d}_{size}_wan.safetensors"

    def write(self, path: str, clips: Iterator[Clip], create: Create) -> None:
        folder = path.rpartition("/")[0]
        for clip in clips:
            row, sizes = clip.row, "x".join(map(str, clip.latent.shape[1:]))
            about = {"width": str(row.width), "height": str(row.height), "frame_count": str(row.num_frames)}
            with create(f"{folder}/{row.name}_wan_te.safetensors") as file:
                file.write(tensor_file("varlen_t5_bfloat16", clip.tokens, ABOUT | {"caption1": clip.caption}))
            with create(path) as file:
                file.write(tensor_file(f"latents_{sizes}_bfloat16", clip.latent, ABOUT | about))

    def lists(self, shapes: Sequence[Shape], rows: Iterable[Row]) -> Iterator[tuple[str, bytes]]:
        """The configuration. It must name a source of videos, which training does not read: an empty one."""
        yield NO_VIDEOS, b""
        sizes = sorted({(shape.width, shape.height) for shape in shapes})
        yield CONFIG, "\n".join(self._dataset(width, height) for width, height in sizes).encode()

    def _dataset(self, width: int, height: int) -> str:
        videos, cache = (json.dumps(f"{self.root}/{path}") for path in (NO_VIDEOS, f"cache/{width}x{height}"))
        resolution = f"resolution = [{width}, {height}]\nenable_bucket = false"
        return f"[[datasets]]\n{resolution}\nvideo_jsonl_file = {videos}\ncache_directory = {cache}\n"

    def arguments(self, shapes: Sequence[Shape], rows: int) -> list[str]:
        return [f"--dataset_config {self.root}/{CONFIG}"]
