"""Spatial tiling: pictures too large for the device are encoded in overlapping tiles whose latents are blended.

The latents differ from those of the whole picture, because norms take their statistics within a tile. They equal those
of diffusers' `tiled_encode` with the same tiles, and can be computed chunk by chunk, because each latent frame is
blended separately.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from encoder.streaming.engines import Engine


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of `height_px x width_px`, each `stride_*` after the last; their overlap is blended linearly."""

    height_px: int
    width_px: int
    stride_height_px: int
    stride_width_px: int

    def check(self, spatial_ratio: int) -> None:
        """Raises ValueError if tiles would not end on a latent pixel, or would leave gaps."""
        sizes = (self.height_px, self.width_px, self.stride_height_px, self.stride_width_px)
        if any(size < spatial_ratio or size % spatial_ratio for size in sizes):
            raise ValueError(f"{self} cannot be cut: every size must be a positive multiple of {spatial_ratio}")
        if self.stride_height_px > self.height_px or self.stride_width_px > self.width_px:
            raise ValueError(f"{self} would leave gaps: a stride may be at most the size of its tile")

    def __str__(self) -> str:
        return f"tiles {self.height_px}x{self.width_px} px, {self.stride_height_px}x{self.stride_width_px} apart,"


@dataclass(frozen=True, slots=True)
class Tiled:
    """An engine that passes each tile to another engine; its state is the tiles' states, row by row."""

    engine: Engine
    tiles: Tiles
    spatial_ratio: int

    @property
    def streams(self) -> bool:
        return self.engine.streams

    def plan(self, frames: int) -> tuple[int, ...]:
        return self.engine.plan(frames)

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """`b 3 t h w` to moments; a picture that fits in one tile is encoded whole."""
        tiles = self.tiles
        if x.shape[3] <= tiles.height_px and x.shape[4] <= tiles.width_px:
            return self.engine.encode_chunk(x, state)
        rows: list[list[Tensor]] = []
        states: list[Any] = []
        for top in range(0, x.shape[3], tiles.stride_height_px):
            rows.append([])
            for left in range(0, x.shape[4], tiles.stride_width_px):
                tile = x[..., top : top + tiles.height_px, left : left + tiles.width_px]
                moments, past = self.engine.encode_chunk(tile, None if state is None else state[len(states)])
                rows[-1].append(moments.float())
                states.append(past)
        return self._blend(rows), tuple(states)

    def _blend(self, rows: list[list[Tensor]]) -> Tensor:
        """Blends each tile with the one above, then with the one to its left, in order, and joins them."""
        tiles, ratio = self.tiles, self.spatial_ratio
        step_h, step_w = tiles.stride_height_px // ratio, tiles.stride_width_px // ratio
        overlap_h, overlap_w = tiles.height_px // ratio - step_h, tiles.width_px // ratio - step_w
        for i, row in enumerate(rows):
            for j, tile in enumerate(row):
                if i > 0:
                    blend_edge(rows[i - 1][j], tile, overlap_h, dim=3)
                if j > 0:
                    blend_edge(row[j - 1], tile, overlap_w, dim=4)
        return torch.cat([torch.cat([tile[..., :step_h, :step_w] for tile in row], 4) for row in rows], 3)


def blend_edge(before: Tensor, tile: Tensor, overlap: int, dim: int) -> None:
    """Fades, in place, from the last `overlap` rows (or columns) of `before` to the first of `tile`."""
    overlap = min(overlap, before.shape[dim], tile.shape[dim])
    if not overlap:
        return
    shape = [1] * tile.ndim
    shape[dim] = overlap
    weight = (torch.arange(overlap, dtype=torch.float32, device=tile.device) / overlap).to(tile.dtype).view(shape)
    edge = tile.narrow(dim, 0, overlap)
    edge.copy_(before.narrow(dim, before.shape[dim] - overlap, overlap) * (1 - weight) + edge * weight)
