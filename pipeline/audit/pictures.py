"""Pictures of one stored clip: the frames that begin each latent frame, the latent as colours, and decoded frames.

For a report, for files (PNG, and a GIF that moves), and for terminals.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from pipeline.records import FloatLatent, Uint8Frames

HEIGHT_PX, LABEL_PX = 160, 16
MOST, FEW = 16, 6  # pictures side by side
MOST_MOVING_FRAMES = 240


@dataclass(frozen=True, slots=True)
class Strip:
    """Pictures of one kind, each `h w 3`, and what each of them is."""

    kind: str
    pictures: list[Uint8Frames]
    numbers: list[int]

    def first(self, most: int) -> "Strip":
        return Strip(self.kind, self.pictures[:most], self.numbers[:most])


def picture(latent: FloatLatent, frames: Uint8Frames | None, temporal_ratio: int, title: str) -> bytes:
    """A PNG with labels: a coloured picture of each frame of the latent `c t h w`, below the frame that begins it."""
    strips = [strip.first(MOST) for strip in _strips(latent, frames, None, temporal_ratio)]
    rows = [_labelled(strip) for strip in strips]
    width_px = min(row.shape[1] for row in rows)
    return _encoded([_text([title], width_px), *rows], "PNG")


def small_picture(
    latent: FloatLatent, frames: Uint8Frames | None, decoded: Uint8Frames | None, temporal_ratio: int
) -> bytes:
    """A JPEG of a few frames without labels, with the decoded ones at the bottom where there are such."""
    return _encoded([_joined(strip.first(FEW)) for strip in _strips(latent, frames, decoded, temporal_ratio)], "JPEG")


def side_by_side(frames: Uint8Frames, decoded: Uint8Frames, temporal_ratio: int) -> bytes:
    """A PNG: the frames `t h w c` that begin a latent frame, each above the decoded one."""
    starts = _starts(len(frames), temporal_ratio)
    return _encoded(
        [_joined(_strip_of("", pictures, starts).first(MOST)) for pictures in (frames, decoded)],
        "PNG",
    )


def moving_picture(latent: FloatLatent, frames: Uint8Frames | None, temporal_ratio: int, fps: float) -> bytes:
    """A GIF with labels: each frame at its time beside the latent frame that it is in; latent frames alone without."""
    colours = _colours(latent)
    count = len(frames) if frames is not None else len(colours) * temporal_ratio
    starts = _starts(count, temporal_ratio)
    images = []
    for number in range(min(count, MOST_MOVING_FRAMES)):
        at = int(np.searchsorted(starts, number, side="right")) - 1
        strips = [] if frames is None else [Strip("frame", [frames[number]], [number])]
        strips.append(Strip("latent", [colours[at]], [at]))
        images.append(np.concatenate([_labelled(strip) for strip in strips], axis=1))
    first, *later = map(Image.fromarray, images)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=later, duration=round(1000 / fps), loop=0)
    return buffer.getvalue()


def picture_for_terminal(
    latent: FloatLatent, frames: Uint8Frames | None, temporal_ratio: int, width_px: int, height_px: int
) -> Uint8Frames:
    """`h w 3` of a few frames above their latents, with an even height, no larger than asked."""
    strips = [_joined(strip.first(FEW)) for strip in _strips(latent, frames, None, temporal_ratio)]
    together = Image.fromarray(_stacked(strips))
    scale = min(width_px / together.width, height_px / together.height)
    size = (max(1, int(together.width * scale)), max(2, int(together.height * scale / 2) * 2))
    return np.asarray(together.resize(size, Image.Resampling.BOX))


def _strips(
    latent: FloatLatent, frames: Uint8Frames | None, decoded: Uint8Frames | None, temporal_ratio: int
) -> Iterator[Strip]:
    """Source frames, the latent, decoded frames: one picture for each latent frame."""
    if frames is not None:
        yield _strip_of("frame", frames, _starts(len(frames), temporal_ratio))
    colours = _colours(latent)
    yield _strip_of("latent", colours, list(range(len(colours))))
    if decoded is not None:
        yield _strip_of("decoded", decoded, _starts(len(decoded), temporal_ratio))


def _strip_of(kind: str, pictures: Uint8Frames, numbers: list[int]) -> Strip:
    return Strip(kind, [pictures[number] for number in numbers], numbers)


def _starts(frames: int, temporal_ratio: int) -> list[int]:
    """The frames that begin a latent frame: the first frame of a video has a latent frame of its own."""
    alone = frames % temporal_ratio
    return [*range(alone), *range(alone, frames, temporal_ratio)]


def _joined(strip: Strip) -> Uint8Frames:
    return np.concatenate([_resized(shown) for shown in strip.pictures], axis=1)


def _resized(shown: Uint8Frames) -> Uint8Frames:
    height, width, _ = shown.shape
    size = (max(1, round(width * HEIGHT_PX / height)), HEIGHT_PX)
    return np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.NEAREST))


def _labelled(strip: Strip) -> Uint8Frames:
    """The pictures of a strip, which are of one size, side by side below what each of them is."""
    pictures = _joined(strip)
    width_px = pictures.shape[1] // len(strip.pictures)
    return np.concatenate([_text([f"{strip.kind} {number}" for number in strip.numbers], width_px), pictures])


def _text(words: list[str], width_px: int) -> Uint8Frames:
    """`LABEL_PX w 3`: words side by side, each in `width_px`, cut where it needs more."""
    cells = []
    for word in words:
        cell = Image.new("RGB", (width_px, LABEL_PX), "white")
        ImageDraw.Draw(cell).text((3, 2), word, fill="black")
        cells.append(np.asarray(cell))
    return np.concatenate(cells, axis=1)


def _stacked(rows: list[Uint8Frames]) -> Uint8Frames:
    """One above the other, as wide as the narrowest."""
    width_px = min(row.shape[1] for row in rows)
    return np.concatenate([row[:, :width_px] for row in rows])


def _encoded(rows: list[Uint8Frames], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_stacked(rows)).save(buffer, kind)
    return buffer.getvalue()


def _colours(latent: FloatLatent) -> Uint8Frames:
    """`c t h w -> t h w 3`: the three directions in which the channels vary most, as red, green and blue."""
    channels = latent.reshape(len(latent), -1).astype(np.float64)
    centred = channels - channels.mean(1, keepdims=True)
    _, directions = np.linalg.eigh(np.cov(centred))
    projected = np.zeros((3, centred.shape[1]))
    projected[: len(centred)] = directions[:, ::-1][:, :3].T @ centred
    low, high = np.percentile(projected, (1, 99), axis=1, keepdims=True)
    scaled = np.clip((projected - low) / np.maximum(high - low, 1e-9), 0, 1) * 255
    colours: Uint8Frames = scaled.astype(np.uint8).reshape(3, *latent.shape[1:]).transpose(1, 2, 3, 0)
    return colours
