"""NeMo DFM (Megatron, Energon): tars of scaled float16 latents, texts without padding, and JSON."""

import io
import json
import pickle
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.dataset.export.target import TINY, Clip, Create, Row, Shape, Target


class Dfm(Target):
    encoders = frozenset({"wan", TINY})

    def path(self, row: Row) -> str:
        return f"{row.part_name}-{row.bucket}.tar"

    def write(self, path: str, clips: Iterator[Clip], create: Create) -> None:
        with create(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for clip in clips:
                for extension, data in _members(clip).items():
                    member = tarfile.TarInfo(f"{clip.row.name}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

    def arguments(self, shapes: Sequence[Shape], rows: int) -> list[str]:
        return [
            f"energon prepare {self.root}  (its sample type is: Crude sample)",
            f"dataset.path={self.root}",
        ]


def _members(clip: Clip) -> dict[str, bytes]:
    row = clip.row
    about = {
        "caption": clip.caption,
        "id": row.id,
        "processed_frames": row.num_frames,
        "processed_height": row.height,
        "processed_width": row.width,
        "fps": row.fps,
    }
    tokens = pickle.dumps(_Pickled(clip.tokens.bfloat16()))
    return {"json": json.dumps(about).encode(), "pickle": tokens, "pth": _saved(clip.latent.half())}


def _saved(tensor: Tensor) -> bytes:
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


class _Pickled:
    """A tensor whose pickle has the same bytes each time: torch's own states where the tensor lay in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return torch.storage._load_from_bytes, (_saved(self._tensor),)
