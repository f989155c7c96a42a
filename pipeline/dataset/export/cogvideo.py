"""CogVideo's finetune folder: a cache of scaled samples, and texts by the sha256 of their prompt."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from pipeline.dataset.export.target import TINY, Clip, Create, Row, Shape, Target
from pipeline.dataset.export.tensor_file import tensor_file

MODEL = "cogvideox-t2v"
PROMPTS, VIDEOS = "prompts.txt", "videos.txt"


class CogVideo(Target):
    encoders = frozenset({"cogvideox", TINY})
    posteriors = ("sample", "mean")

    def refusal(self, shapes: Sequence[Shape], rows: Iterable[Row]) -> str | None:
        if len(shapes) > 1:
            buckets = ", ".join(shape.bucket for shape in shapes)
            where = f"\"bucket == '{shapes[0].bucket}'\""
            return f"cogvideo trains on one shape, of {buckets}: --select a table of latentmill select --where {where}"
        if (frames := shapes[0].num_frames) % 8 != 1:
            return f"cogvideo trains on clips of 8k + 1 frames, and these have {frames}: use another clip.frames"
        if empty := [row.id for row in rows if not prompt_of(row.caption)]:
            said = f"cogvideo drops empty prompts, and {len(empty):,} rows have no caption, such as {empty[0]}"
            return f"{said}: --select a table of latentmill select without them"
        return None

    def path(self, row: Row) -> str:
        shape = f"{row.num_frames}x{row.height}x{row.width}"
        return f"cache/video_latent/{MODEL}/{shape}/{row.name}.safetensors"

    def write(self, path: str, clips: Iterator[Clip], create: Create) -> None:
        for clip in clips:
            digest = hashlib.sha256(prompt_of(clip.caption).encode()).hexdigest()
            with create(f"cache/prompt_embeddings/{digest}.safetensors") as file:
                file.write(tensor_file("prompt_embedding", clip.text))
            with create(path) as file:
                file.write(tensor_file("encoded_video", clip.latent))

    def lists(self, shapes: Sequence[Shape], rows: Iterable[Row]) -> Iterator[tuple[str, bytes]]:
        """Prompts and videos, a line each. The trainer only checks that a video is there: its latent stands for it."""
        lines = [(prompt_of(row.caption), self.path(row)) for row in rows]
        for path, column in zip((PROMPTS, VIDEOS), zip(*lines, strict=True), strict=True):
            yield path, "".join(f"{line}\n" for line in column).encode()

    def arguments(self, shapes: Sequence[Shape], rows: int) -> list[str]:
        return [
            f"--data_root {self.root} --caption_column {PROMPTS} --video_column {VIDEOS} "
            f"--train_resolution {shapes[0].pixels} --model_name {MODEL} --model_type t2v"
        ]


def prompt_of(caption: str) -> str:
    """A caption on one line, as the trainer reads it."""
    return " ".join(caption.split())
