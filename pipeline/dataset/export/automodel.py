"""NeMo Automodel: a file for each clip in folders by picture size, float16, and lists of them."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from pipeline.dataset.export.target import TINY, Clip, Create, Row, Shape, Target

LISTED_ROWS = 10_000
METADATA = "metadata.json"


class Automodel(Target):
    encoders = frozenset({"wan", TINY})

    def refusal(self, shapes: Sequence[Shape], rows: Iterable[Row]) -> str | None:
        size, count = Counter((shape.width, shape.height) for shape in shapes).most_common(1)[0]
        if count == 1:
            return None
        said = f"automodel batches clips of {size[0]}x{size[1]} pixels together, and these have {count} lengths"
        return f"{said}: --select a table of latentmill select --where 'num_frames == N'"

    def path(self, row: Row) -> str:
        return f"{row.width}x{row.height}/{row.name}.meta"

    def write(self, path: str, clips: Iterator[Clip], create: Create) -> None:
        for clip in clips:
            values = {"video_latents": clip.latent[None].half(), "text_embeddings": clip.text[None].bfloat16()}
            with create(path) as file:
                torch.save(values | _described(clip.row), file)

    def lists(self, shapes: Sequence[Shape], rows: Iterable[Row]) -> Iterator[tuple[str, bytes]]:
        names: list[str] = []
        remaining = iter(rows)
        while listed := [self._listed(row) for row in islice(remaining, LISTED_ROWS)]:
            names.append(f"metadata_shard_{len(names):04d}.json")
            yield names[-1], json.dumps(listed).encode()
        yield METADATA, json.dumps({"shards": names}).encode()

    def _listed(self, row: Row) -> dict[str, Any]:
        """A row as the list has it. Its path is absolute, as the trainer resolves others in its working folder."""
        return {"cache_file": f"{self.root}/{self.path(row)}", "prompt": row.caption, **_described(row)}

    def arguments(self, shapes: Sequence[Shape], rows: int) -> list[str]:
        return [f"data.dataloader.cache_dir: {self.root}", "data.dataloader.model_type: wan"]


def _described(row: Row) -> dict[str, Any]:
    size = [row.width, row.height]
    return {"bucket_resolution": size, "aspect_ratio": row.width / row.height, "num_frames": row.num_frames}
