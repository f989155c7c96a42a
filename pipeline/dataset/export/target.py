"""What flows through an export, in order: rows, their shapes, clips; and what each target says of itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:  # torch takes a second to import
    from torch import Tensor

Posterior = Literal["mean", "sample", "moments"]
Create = Callable[[str], AbstractContextManager[IO[bytes]]]
NAMES = ("fastvideo", "finetrainers", "cogvideo", "ltx", "musubi", "automodel", "dfm")
TINY = "tiny"  # no target has a model for it: it rehearses all of them
FAMILIES = {"cogvideox": "cogvideox", "wan": "wan", "wan2.2": "wan"}  # whose rules of text an encoder's models take


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the index, and its place in the order of the export; `caption` is the one that was embedded."""

    number: int
    id: str
    shard: str
    sample_index: int
    window_index: int
    bucket: str
    part: str
    file_name: str
    caption: str
    width: int
    height: int
    num_frames: int
    fps: float

    @property
    def folder(self) -> str:
        """Its shard, without dots: readers of tars take the first one for the beginning of an extension."""
        return self.shard.replace(".", "_")

    @property
    def file(self) -> str:
        """Unique in its shard."""
        return f"{self.sample_index:06d}-{self.window_index:03d}"

    @property
    def name(self) -> str:
        """Unique in the run."""
        return f"{self.folder}-{self.file}"

    @property
    def part_name(self) -> str:
        """The name of the part that holds it, without extension; a slice has one for each bucket."""
        return self.part.rpartition("/")[2].removesuffix(".parquet")


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What the clips of a bucket have in common, in latent values and in pixels."""

    bucket: str
    num_frames: int
    height: int
    width: int

    @property
    def pixels(self) -> str:
        return f"{self.num_frames}x{self.height}x{self.width}"


@dataclass(frozen=True, slots=True)
class Clip:
    """A row with its latent `c t h w` (moments: `2c t h w`), and its text `n d` as its model sees it.

    Where no text is exported, `text` and `mask` are empty.
    """

    row: Row
    latent: "Tensor"
    caption: str
    text: "Tensor"
    mask: "Tensor"

    @property
    def tokens(self) -> "Tensor":
        """The rows of the text that its mask names, in memory of their own."""
        return self.text[self.mask]


@dataclass(frozen=True)
class Target(ABC):
    """The files that one trainer reads.

    `encoders` are those whose latents it trains on; `posteriors` what it takes, the usual one first; `scale` whether it
    wants latents scaled as the footer says; `takes_text` whether it trains with our text embeddings.
    """

    encoder: Mapping[str, Any]  # as the footers describe it
    root: str
    has_text: bool

    encoders: ClassVar[frozenset[str]]
    posteriors: ClassVar[tuple[Posterior, ...]] = ("mean", "sample")
    scale: ClassVar[Literal["footer"] | None] = "footer"
    takes_text: ClassVar[bool] = True

    @abstractmethod
    def path(self, row: Row) -> str:
        """The file that holds a row, the last one that is written for it. Rows of one file follow each other."""

    @abstractmethod
    def write(self, path: str, clips: Iterator[Clip], create: Create) -> None:
        """Writes the clips of one file, and what belongs beside it."""

    @abstractmethod
    def arguments(self, shapes: Sequence[Shape], rows: int) -> list[str]:
        """Lines with the arguments by which its training command finds the data."""

    def refusal(self, shapes: Sequence[Shape], rows: Iterable[Row]) -> str | None:
        """Why it cannot train on these rows, and what to do; None where it can."""
        return None

    def lists(self, shapes: Sequence[Shape], rows: Iterable[Row]) -> Iterator[tuple[str, bytes]]:
        """Path and content of small files that tell of all rows, written last."""
        yield from ()
