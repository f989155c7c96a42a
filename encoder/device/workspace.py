"""Memory for what layers make and use up again, kept from call to call.

It does not say what for. A CPU's allocator gives large blocks back to the system, and taking them again costs more than
computing what they hold: 1.6 ns a float, page by page, against 0.5 for norm and swish.
"""

from math import prod

import torch
from torch import Tensor


class Workspace:
    """Uninitialised tensors by name: each takes the place of what was last given under its name.

    Only on a CPU: GPUs have allocators that keep memory.
    """

    def __init__(self) -> None:
        self._flat: dict[tuple[str, torch.dtype], Tensor] = {}

    def empty(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Of this shape, on the device of `like` and in its precision."""
        if like.device.type != "cpu":
            return torch.empty(shape, dtype=like.dtype, device=like.device)
        key, needed = (name, like.dtype), prod(shape)
        if key not in self._flat or self._flat[key].numel() < needed:
            self._flat.pop(key, None)  # given back before more is taken
            with torch.inference_mode(False):  # or it could be written to in inference mode alone
                self._flat[key] = torch.empty(needed, dtype=like.dtype)
        return self._flat[key][:needed].view(shape)

    def frames(self, name: str, like: Tensor, frames: int, *, channels: int = 0, margin_px: int = 0) -> Tensor:
        """`b c frames h+margin w+margin` in channels-last order, like `like`, with `channels` where they are given."""
        b, c, _, h, w = like.shape
        shape = (b, frames, h + margin_px, w + margin_px, channels or c)
        return self.empty(name, shape, like).permute(0, 4, 1, 2, 3)


def empty_frames(like: Tensor, frames: int, *, channels: int = 0) -> Tensor:
    """An uninitialised `b c frames h w` tensor like `like`, with `channels` where they are given."""
    b, c, _, h, w = like.shape
    shape = (b, channels or c, frames, h, w)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d)
