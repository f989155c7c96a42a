"""The LTX-2 trainer: a file for each latent, scaled, bfloat16. Its own script embeds the captions.

Its model takes Gemma's hidden states behind the checkpoint's feature extractor, which only that script computes. A
rehearsal with `tiny` and any text writes such files too.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

import torch

from pipeline.dataset.export.target import TINY, Clip, Create, Row, Shape, Target

FOLDER, CAPTIONS = ".precomputed", "captions.jsonl"


class Ltx(Target):
    encoders = frozenset({"ltx", TINY})
    takes_text = False

    def path(self, row: Row) -> str:
        return f"{FOLDER}/latents/{_place(row)}.pt"

    def write(self, path: str, clips: Iterator[Clip], create: Create) -> None:
        for clip in clips:
            _, frames, height, width = clip.latent.shape
            sizes = {"num_frames": frames, "height": height, "width": width, "fps": clip.row.fps}
            if self.has_text:
                with create(f"{FOLDER}/conditions/{_place(clip.row)}.pt") as file:
                    torch.save(_condition(clip), file)
            with create(path) as file:
                torch.save({"latents": clip.latent.bfloat16(), **sizes}, file)

    def lists(self, shapes: Sequence[Shape], rows: Iterable[Row]) -> Iterator[tuple[str, bytes]]:
        """The captions for the trainer's script, which writes each embedding under the path of its latent."""
        if not self.has_text:
            lines = (json.dumps({"caption": row.caption, "media_path": f"{_place(row)}.mp4"}) for row in rows)
            yield CAPTIONS, "".join(f"{line}\n" for line in lines).encode()

    def arguments(self, shapes: Sequence[Shape], rows: int) -> list[str]:
        script = (
            f"python scripts/process_captions.py {self.root}/{CAPTIONS} --output-dir {self.root}/{FOLDER}/conditions "
            "--model-path CHECKPOINT --text-encoder-path GEMMA"
        )
        batch = ["optimization.batch_size: 1, as there are several shapes"] if len(shapes) > 1 else []
        return [*([] if self.has_text else [script]), f"data.preprocessed_data_root: {self.root}", *batch]


def _place(row: Row) -> str:
    """In a folder for each shard: the trainer takes file names that begin with `latent_` for those of an old layout."""
    return f"{row.folder}/{row.file}"


def _condition(clip: Clip) -> dict[str, torch.Tensor]:
    tokens = clip.tokens.bfloat16()
    return {"video_prompt_embeds": tokens, "prompt_attention_mask": torch.ones(len(tokens), dtype=torch.bool)}
