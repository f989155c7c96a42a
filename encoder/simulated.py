"""A simulated accelerator (`encoder.name: simulated`): takes a set time per frame and computes nothing.

It serves to rehearse clusters and to measure what feeds an encoder. Its latents are noise, and its identity says so.
"""

import hashlib
import math
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from encoder.device.busy import Busy
from encoder.device.simulated import Clock, SimulatedBusy, SimulatedDevice
from encoder.families import DTYPES, Options
from encoder.loading import described
from encoder.spec import SIMULATED, LatentSpec, spec_of
from encoder.streaming.chunks import chunk_plan
from encoder.video_encoder import VideoEncoder
from encoder.weights import WeightsError

WEIGHTS_SHA256 = hashlib.sha256(SIMULATED.encode()).hexdigest()  # the same at any speed, like the latents
NOISE_FRAMES = 32  # after which latents repeat; beyond the window of our files' compression


class PendingTensor(Tensor):
    """A tensor whose values a simulated device finishes at `done_at`.

    Results computed from it are finished at the same time; what copies values to the host waits for the device.
    """

    device_in_service: SimulatedDevice
    done_at: float

    @classmethod
    def of(cls, values: Tensor, device: SimulatedDevice, done_at: float) -> "PendingTensor":
        tensor = values.as_subclass(cls)
        tensor.device_in_service, tensor.done_at = device, done_at
        return tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        last = max(
            (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, PendingTensor)),
            key=lambda tensor: tensor.done_at,
        )
        if func in READS:
            last.device_in_service.wait_until(last.done_at)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            if func is Tensor.cpu:
                return result.as_subclass(Tensor).clone()  # a copy, as from a device
            if isinstance(result, Tensor) and func not in READS:
                return cls.of(result, last.device_in_service, last.done_at)
            if isinstance(result, tuple | list) and all(isinstance(one, Tensor) for one in result):
                return type(result)(cls.of(one, last.device_in_service, last.done_at) for one in result)
            return result


READS = {Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.item, Tensor.copy_, Tensor.__array__}
READS |= {Tensor.__bool__, Tensor.__int__, Tensor.__float__, torch.equal}


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """An engine whose latents are noise of the right shape. The state is the number of latent frames so far.

    Without a device it takes no time, and its latents are on the meta device.
    """

    spec: LatentSpec
    cut: Callable[[int], tuple[int, ...]]
    device: SimulatedDevice | None = None
    streams: ClassVar[bool] = True

    def plan(self, frames: int) -> tuple[int, ...]:
        return self.cut(frames)

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        batch, _, frames, height_px, width_px = x.shape
        begin, ratio = state or 0, self.spec.spatial_ratio
        end = begin + frames // self.spec.temporal_ratio + (state is None)
        size = 2 * self.spec.latent_channels, height_px // ratio, width_px // ratio
        if self.device is None:
            return torch.empty(batch, size[0], end - begin, *size[1:], device="meta"), end
        done_at = self.device.occupy(batch * frames)
        moments = _noise(*size)[:, torch.arange(begin, end) % NOISE_FRAMES].expand(batch, -1, -1, -1, -1)
        return PendingTensor.of(moments, self.device, done_at), end


@lru_cache(maxsize=8)
def _noise(channels: int, height: int, width: int) -> Tensor:
    """`c t h w`, the same values in every process."""
    return torch.randn(channels, NOISE_FRAMES, height, width, generator=torch.Generator().manual_seed(0))


class SimulatedEncoder(VideoEncoder):
    """The encoder on a simulated device. Frames are copied to upload buffers on the host, and no further."""

    def __init__(self, spec: LatentSpec, identity: dict[str, Any], dtype: torch.dtype, engine: SimulatedEngine) -> None:
        shadow = SimulatedEngine(spec, engine.cut)
        super().__init__(engine, shadow, spec, identity, torch.device("meta"), dtype)
        assert engine.device is not None, "only shadow engines have no device"
        self._simulated_device = engine.device

    @property
    def device_name(self) -> str:
        return SIMULATED

    def busy(self) -> Busy:
        return SimulatedBusy(self._simulated_device)

    def _scaled(self, uploaded: Tensor) -> Tensor:
        """Without computing: what torch imports to compute on its meta device takes half a second of a start."""
        return torch.empty(uploaded.shape, dtype=self.dtype, device=self.device)

    @property
    def device_busy_seconds(self) -> float:
        """Seconds for which the device has been busy, by its own count."""
        return self._simulated_device.busy_seconds


def load_simulated(weights: str, options: Options, clock: Clock | None = None) -> SimulatedEncoder:
    """The encoder whose device takes the time per frame in `simulated:MS_PER_FRAME[:FOLDER]`.

    Args:
        weights: with a folder, each process records there when its device was busy (`ServiceRecord`).
        options: the named device, norm scope and convolutions make no difference.
    """
    spec = spec_of(SIMULATED)
    options.check(spec.temporal_ratio)
    if options.tiles is not None:
        raise ValueError("tiles is set, but the simulated encoder does not tile: leave it out")
    ms_per_frame, folder = _parsed(weights)
    record = Path(folder) / f"{socket.gethostname()}-{os.getpid()}.txt" if folder else None
    choices = {
        "dtype": options.dtype,
        "weights_sha256": WEIGHTS_SHA256,
        "norm_scope": options.norm_scope,
        "chunk_frames": options.chunk_frames,
        "chunk_plan": options.chunk_plan,
        "convolutions": {},
        "tiles": None,
        "simulated": True,
    }

    def cut(frames: int) -> tuple[int, ...]:
        return chunk_plan(frames, options.chunk_frames, spec.temporal_ratio, options.chunk_plan)

    engine = SimulatedEngine(spec, cut, SimulatedDevice(ms_per_frame / 1000, clock, record))
    return SimulatedEncoder(spec, described(spec) | choices, DTYPES[options.dtype], engine)


def _parsed(weights: str) -> tuple[float, str]:
    """Milliseconds per frame, and the folder of the records ("": none)."""
    head, _, rest = weights.partition(":")
    milliseconds, _, folder = rest.partition(":")
    try:
        ms_per_frame = float(milliseconds)
    except ValueError:
        ms_per_frame = math.nan
    if head != SIMULATED or not 0 <= ms_per_frame < math.inf:
        raise WeightsError(f"the simulated encoder has no weights {weights!r}: write simulated:MS_PER_FRAME")
    return ms_per_frame, folder
