"""FastVideo: Parquet with latents and texts in one row, float32, unscaled; one folder for each shape."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from torch import Tensor

from pipeline.dataset.export.target import TINY, Clip, Create, Row, Shape, Target
from pipeline.output.parts import RowGroupWriter

ARRAYS = ("vae_latent", "text_embedding")
ARRAY_TYPES = (("bytes", pa.binary()), ("shape", pa.list_(pa.int64())), ("dtype", pa.string()))
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        *((f"{name}_{what}", type_) for name in ARRAYS for what, type_ in ARRAY_TYPES),
        ("file_name", pa.string()),
        ("caption", pa.string()),
        ("media_type", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("num_frames", pa.int64()),
        ("duration_sec", pa.float64()),
        ("fps", pa.float64()),
    ]
)


class FastVideo(Target):
    encoders = frozenset({"wan", "wan2.2", TINY})
    scale = None

    def path(self, row: Row) -> str:
        return f"{row.bucket}/{row.part_name}.parquet"

    def write(self, path: str, clips: Iterator[Clip], create: Create) -> None:
        with create(path) as file:
            rows = RowGroupWriter(file, SCHEMA, ["media_type"], [])
            try:
                for clip in clips:
                    rows.add(_values(clip))
                rows.close({"encoder": dict(self.encoder)})
            finally:
                rows.abandon()

    def arguments(self, shapes: Sequence[Shape], rows: int) -> list[str]:
        return [
            f"--data-path {self.root}/{shape.bucket} --num-latent-t {shape.bucket.split('x')[1]} "
            f"--num-height {shape.height} --num-width {shape.width} --num-frames {shape.num_frames}"
            for shape in shapes
        ]


def _values(clip: Clip) -> dict[str, Any]:
    """A row; `num_frames` is that of the latent, as FastVideo counts."""
    row = clip.row
    return {
        "id": row.id,
        **_array("vae_latent", clip.latent),
        **_array("text_embedding", clip.tokens),
        "file_name": row.file_name,
        "caption": clip.caption,
        "media_type": "video",
        "width": row.width,
        "height": row.height,
        "num_frames": clip.latent.shape[1],
        "duration_sec": row.num_frames / row.fps,
        "fps": row.fps,
    }


def _array(name: str, tensor: Tensor) -> dict[str, Any]:
    data = tensor.float().contiguous().numpy().tobytes()
    return {f"{name}_bytes": data, f"{name}_shape": list(tensor.shape), f"{name}_dtype": "float32"}
