"""One stored clip for a person: its row, its statistics per channel, and a picture of latent and frames."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.output.parts import Footer, first_row, read_columns
from pipeline.output.paths import latent_files
from pipeline.output.schema import LATENTS
from pipeline.output.statistics import channels, statistics_of
from pipeline.records import FloatLatent, Uint8Frames
from pipeline.storage.store import Store

PICTURE_HEIGHT_PX = 160
MAX_PICTURES, FEW_PICTURES = 16, 6  # side by side
LISTED = ("id", "key", "window_index", "bucket", "file_name", "caption")
LATENT_COLUMNS = tuple(f"{name}_bytes" for name in LATENTS)


def find_clips(store: Store, name: str) -> list[dict[str, Any]]:
    """What LISTED says of every clip with this id or sample's key, also as KEY:WINDOW; by bucket and file.

    Raises:
        UserError: there is none.
    """
    found = []
    for path in latent_files(store):
        with store.open(path) as file:
            found += [row for row in read_columns(file, LISTED) if _is_named(row, name)]
    if not found:
        raise UserError(
            f"{store.root} holds no clip {name!r}: name an id, SHARD/KEY or SHARD/KEY:WINDOW, or a sample's key"
        )
    return [row for row in found if row["id"] == name] or found


def find_row(store: Store, name: str) -> tuple[dict[str, Any], Footer]:
    """The row of the one clip that `find_clips` finds, and its file's footer.

    Raises:
        UserError: there is none, or there are several.
    """
    ids = [row["id"] for row in find_clips(store, name)]
    if len(ids) > 1:
        raise UserError(f"{len(ids):,} clips match {name!r}: name one by its id, such as {ids[0]}")
    for path in latent_files(store):
        with store.open(path) as file:
            if found := first_row(file, lambda row: row["id"] == ids[0]):
                return found
    raise AssertionError(f"{ids[0]} was there")


def _is_named(row: Mapping[str, Any], name: str) -> bool:
    return name in (row["id"], row["key"], f"{row['key']}:{row['window_index']}")


def describing(row: Mapping[str, Any]) -> dict[str, str]:
    """The row's columns as text, without the latents themselves; long values are cut."""
    return {name: _short(value) for name, value in row.items() if name not in LATENT_COLUMNS}


def channel_lines(latent: FloatLatent) -> Iterable[tuple[float, float, float, float]]:
    """(mean, standard deviation, least, largest) of each channel of `c t h w`."""
    return channels(statistics_of(latent))


def picture(latent: FloatLatent, frames: Uint8Frames | None, temporal_ratio: int) -> bytes:
    """A PNG: a coloured picture of each frame of the latent `c t h w`, below the video frame that begins it."""
    return _png(_strips(latent, [frames], temporal_ratio, MAX_PICTURES))


def small_picture(
    latent: FloatLatent, frames: Uint8Frames | None, decoded: Uint8Frames | None, temporal_ratio: int
) -> bytes:
    """As `picture`, a JPEG of a few frames, with the decoded ones at the bottom where there are such."""
    return _encoded(_strips(latent, [frames, decoded], temporal_ratio, FEW_PICTURES), "JPEG")


def _strips(latent: FloatLatent, videos: list[Uint8Frames | None], temporal_ratio: int, most: int) -> list[Uint8Frames]:
    """The latent as a strip below the first video, above the second, of the frames that begin each latent frame."""
    strips = []
    for frames in videos:
        if frames is not None:
            alone = len(frames) % temporal_ratio  # the first frame of a video has a latent of its own
            starts = [*range(alone), *range(alone, len(frames), temporal_ratio)]
            strips.append(_strip([frames[start] for start in starts][:most]))
    strips.insert(min(1, len(strips)), _strip(list(_colours(latent))[:most]))
    return strips


def side_by_side(frames: Uint8Frames, decoded: Uint8Frames, temporal_ratio: int) -> bytes:
    """A PNG: the frames `t h w c` that begin a latent frame, each above the decoded one."""
    starts = [0, *range(1, len(frames), temporal_ratio)]
    return _png([_strip([pictures[start] for start in starts]) for pictures in (frames, decoded)])


def _png(strips: list[Uint8Frames]) -> bytes:
    return _encoded(strips, "PNG")


def _encoded(strips: list[Uint8Frames], kind: str) -> bytes:
    """Strips of pictures, one above the other, as wide as the narrowest."""
    width_px = min(strip.shape[1] for strip in strips)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([strip[:, :width_px] for strip in strips])).save(buffer, kind)
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


def _strip(pictures: list[Uint8Frames]) -> Uint8Frames:
    height, width, _ = pictures[0].shape
    size = (max(1, round(width * PICTURE_HEIGHT_PX / height)), PICTURE_HEIGHT_PX)
    resized = (Image.fromarray(shown).resize(size, Image.Resampling.NEAREST) for shown in pictures[:MAX_PICTURES])
    return np.concatenate([np.asarray(shown) for shown in resized], axis=1)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
