"""One slice of text embeddings on its way to storage, by the same protocol as latents: a part is created whole, once.

A part's name holds its shard and slice; its footer says which captions it embedded and which of them were rejected.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy.typing as npt

from encoder import Dtype
from pipeline.errors import Reason, SampleError, ShardError
from pipeline.output.accounts import damaged, reject_to_json
from pipeline.output.parts import sha256_of
from pipeline.output.paths import UNCOND_FILE, text_part_path
from pipeline.records import Reject
from pipeline.storage.store import Store
from pipeline.text.captions import Clip, Unit, differences
from pipeline.text.manifests import TextSlice
from pipeline.text.parts import EMBEDDING, TextPartWriter, TextRow, read_text_footer, rejects_in, stored_array, texts_in


@dataclass(frozen=True, slots=True)
class Embedded:
    """What the encoder made of one caption."""

    caption: str
    arrays: Mapping[str, npt.NDArray[Any]]
    tokens: int | None
    truncated: bool | None

    @property
    def rows(self) -> int:
        """Those of its embedding, which are as many as its tokens and padding that counts."""
        return len(self.arrays.get(EMBEDDING, next(iter(self.arrays.values()))))

    def row(self, place: tuple[str, int, int | None, int] | None, dtype: Dtype) -> TextRow:
        """As it is stored. Raises SampleError where it cannot be."""
        arrays = {name: stored_array(array, dtype) for name, array in self.arrays.items()}
        return TextRow(place, self.caption, self.tokens, self.truncated, arrays)


@dataclass(slots=True)
class TextSliceWriter:
    """Takes the texts of slice `index`, in order, and commits them. The scratch file has no name."""

    store: Store
    description: Mapping[str, Any]
    shard: str
    index: int
    clips: Sequence[Clip]
    rejects: list[Reject]
    _scratch: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    _part: TextPartWriter = field(init=False)

    def __post_init__(self) -> None:
        self._part = TextPartWriter(self._scratch)

    def add(self, unit: Unit, captions: Sequence[Embedded]) -> None:
        """Adds the captions of a unit, or none of them where one cannot be stored."""
        try:
            rows = [
                one.row((self.shard, unit.sample_index, unit.window_index, number), self.description["dtype"])
                for number, one in enumerate(captions)
            ]
        except SampleError as error:
            self.reject(unit, error.why)
            return
        for row in rows:
            self._part.add(row)

    def reject(self, unit: Unit, why: Reason) -> None:
        self.rejects.append(unit.rejected(why))

    def commit(self) -> TextSlice:
        """Publishes the part, unless another writer was first; a slice without a row has none."""
        rejects = sorted(self.rejects, key=lambda one: (one.sample_index, one.window_index))
        part = self._part
        if not part.rows:
            return TextSlice(self.index, None, 0, 0, 0, tuple(rejects))
        of_slice = {"shard": self.shard, "slice_index": self.index, "rejects": [reject_to_json(one) for one in rejects]}
        part.close({**self.description, **of_slice})
        path = text_part_path(self.shard, self.index)
        if not self.store.create_from(path, f"/proc/self/fd/{self._scratch.fileno()}"):
            return adopt(self.store, self.description["fingerprint"], self.shard, self.index, self.clips)
        self._scratch.seek(0)
        digest, size_bytes = sha256_of(self._scratch)
        return TextSlice(
            self.index,
            path,
            len(part.rows),
            part.tokens,
            part.truncated,
            tuple(rejects),
            size_bytes,
            digest,
            tuple(self.description["computed_by"].items()),
        )

    def close(self) -> None:
        """Drops what is not committed."""
        self._part.abandon()
        self._scratch.close()


def adopt(store: Store, fingerprint: str, shard: str, index: int, clips: Sequence[Clip]) -> TextSlice:
    """Takes an existing part as the texts of this slice.

    Raises:
        ShardError: it is damaged, of another configuration, or of other captions than the rows have now.
    """
    path = text_part_path(shard, index)
    try:
        with store.open(path) as file:
            footer = read_text_footer(file)
            file.seek(0)
            digest, size_bytes = sha256_of(file)
    except ValueError as error:
        raise damaged(path, error) from None
    if footer["fingerprint"] != fingerprint:
        raise ShardError(f"{store.root}/{path} was made with another configuration: use another --name")
    rejects = rejects_in(footer)
    if problems := list(differences(clips, texts_in(footer), rejects)):
        raise ShardError(
            f"{store.root}/{path}: {problems[0]} ({len(problems):,} in all): set such parts aside with latentmill "
            "verify --repair, or use another --name"
        )
    return TextSlice(
        index,
        path,
        len(footer["rows"]),
        footer["tokens"],
        footer["truncated"],
        tuple(rejects),
        size_bytes,
        digest,
        tuple(footer["computed_by"].items()),
    )


def write_uncond(store: Store, description: Mapping[str, Any], prompts: Sequence[Embedded]) -> None:
    """Creates the file of prompts that belong to no row: the empty one, and negative ones."""
    with tempfile.TemporaryFile() as scratch:
        part = TextPartWriter(scratch)
        for prompt in prompts:
            part.add(prompt.row(None, description["dtype"]))
        part.close({**description, "shard": "", "slice_index": -1, "rejects": []})
        store.create_from(UNCOND_FILE, f"/proc/self/fd/{scratch.fileno()}")
