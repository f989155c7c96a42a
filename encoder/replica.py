"""One encoder on one device: its precision, the copies to the device, clips and streams of chunks.

It does not know the architecture (cogvideox.py) or where frames come from.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.chunks import check_chunk_frames, chunk_plan
from encoder.cogvideox import PRESETS, Encoder, State
from encoder.layers import NormScope
from encoder.spec import LatentSpec, spec_of
from encoder.weights import assign, read_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What the encoder says of a clip or some of its chunks: `b z t' h' w'` each, float32, unscaled.

    `logvar` is unclamped: clamp it to [-30, 20] before taking its exponential, as the decoder's training did.
    """

    mean: Tensor
    logvar: Tensor


def joined(parts: list[Posterior]) -> Posterior:
    """Posteriors of consecutive chunks as one, along time."""
    return Posterior(torch.cat([part.mean for part in parts], 2), torch.cat([part.logvar for part in parts], 2))


class Stream:
    """One clip on its way through the encoder: frames in any portions; memory does not grow with the clip."""

    def __init__(self, module: Encoder, spec: LatentSpec, plan: tuple[int, ...]) -> None:
        self._module, self._spec, self._plan = module, spec, plan
        self._state: State | None = None
        self._waiting: list[Tensor] = []
        self._frames_pushed = 0
        self._chunks_done = 0

    @torch.inference_mode()
    def push(self, video: Tensor) -> Posterior | None:
        """Takes the next frames `b 3 t h w` in [-1, 1]; returns the latents that became complete, if any.

        Raises:
            ValueError: more frames than the stream was opened for, or frames that do not fit those before.
        """
        self._check(video)
        self._frames_pushed += video.shape[2]
        self._waiting.append(video)
        ready = []
        while self._chunks_done < len(self._plan) and self._waiting_frames() >= self._plan[self._chunks_done]:
            ready.append(self._encode(self._plan[self._chunks_done]))
        return joined(ready) if ready else None

    def finish(self) -> None:
        """Says that the clip is over; ValueError where frames are missing."""
        if self._frames_pushed < sum(self._plan):
            raise ValueError(f"the clip ended after {self._frames_pushed} frames of {sum(self._plan)}")

    def _encode(self, frames: int) -> Posterior:
        together = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting, 2)
        self._waiting = [together[:, :, frames:]] if together.shape[2] > frames else []
        moments, self._state = self._module(together[:, :, :frames], self._state)
        self._chunks_done += 1
        if self._chunks_done == len(self._plan):
            self._state = None
        mean, logvar = moments.float().chunk(2, dim=1)
        return Posterior(mean, logvar)

    def _waiting_frames(self) -> int:
        return sum(video.shape[2] for video in self._waiting)

    def _check(self, video: Tensor) -> None:
        if video.ndim != 5 or video.shape[1] != 3 or not video.is_floating_point():
            raise ValueError(
                f"push takes `b 3 t h w` floats in [-1, 1], got {video.dtype} {tuple(video.shape)}; "
                "to_video makes them from uint8 frames"
            )
        if self._frames_pushed + video.shape[2] > sum(self._plan):
            raise ValueError(f"{self._frames_pushed + video.shape[2]} frames pushed into a stream of {sum(self._plan)}")
        self._spec.latent_shape(sum(self._plan), *video.shape[3:])


class VideoEncoder:
    """One encoder with its weights on one device. `encoder.load` makes it."""

    def __init__(self, module: Encoder, spec: LatentSpec, identity: dict[str, Any]) -> None:
        self._module = module
        self._parameter = next(module.parameters())
        self.spec = spec
        self.identity = identity
        self.weights_sha256: str = identity["weights_sha256"]

    @property
    def dtype(self) -> torch.dtype:
        return self._parameter.dtype

    @property
    def device(self) -> torch.device:
        return self._parameter.device

    def encode(self, video: Tensor) -> Posterior:
        """`b 3 t h w` in [-1, 1] to its posterior, chunk by chunk.

        Raises:
            ValueError: an illegal frame count or picture size, or not such a tensor.
        """
        if video.ndim != 5:
            raise ValueError(f"encode takes `b 3 t h w`, got {tuple(video.shape)}")
        stream = self.stream(video.shape[2])
        parts = [stream.push(chunk) for chunk in torch.split(video, list(self.plan(video.shape[2])), dim=2)]
        stream.finish()
        return joined([part for part in parts if part is not None])

    def stream(self, frames: int) -> Stream:
        """Opens a clip of `frames` frames, a legal count, that will be pushed in portions."""
        return Stream(self._module, self.spec, self.plan(frames))

    def plan(self, frames: int) -> tuple[int, ...]:
        """The chunks in which a clip of `frames` frames is encoded; ValueError for an illegal count."""
        self.spec.latent_frames(frames)
        return chunk_plan(frames, self.identity["chunk_frames"], self.spec.temporal_ratio)

    @torch.inference_mode()
    def to_video(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """`t h w c` uint8 RGB to `1 3 t h w` in [-1, 1] on the encoder's device, in its precision."""
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"to_video takes `t h w 3` uint8, got {frames.dtype} {frames.shape}")
        on_cuda = self.device.type == "cuda"
        staging = torch.empty(frames.shape, dtype=torch.uint8, pin_memory=on_cuda)
        np.copyto(staging.numpy(), frames)
        there = staging.to(self.device, non_blocking=on_cuda)
        return there.float().div_(127.5).sub_(1).to(self.dtype).permute(3, 0, 1, 2)[None]


def load_video_encoder(
    name: str, weights: str, dtype: str, device: str, chunk_frames: int, norm_scope: str
) -> VideoEncoder:
    """What `encoder.load` does; see there."""
    spec, params = spec_of(name), PRESETS[name]
    check_chunk_frames(chunk_frames, spec.temporal_ratio)
    _check_choice("dtype", dtype, tuple(DTYPES))
    _check_choice("norm_scope", norm_scope, get_args(NormScope))
    with torch.device("meta"):
        module = Encoder(params, cast(NormScope, norm_scope))
    checkpoint = read_weights(weights, module, name, params)
    weights_sha256 = assign(module, checkpoint.tensors, weights)
    place(module, _device(device), DTYPES[dtype])
    spec = replace(spec, **checkpoint.scaling)
    choices = {"dtype": dtype, "chunk_frames": chunk_frames, "norm_scope": norm_scope}
    return VideoEncoder(module, spec, asdict(spec) | choices | {"weights_sha256": weights_sha256})


def place(module: Encoder, device: torch.device, dtype: torch.dtype) -> None:
    """Moves the parameters to where and how they compute: frozen, 3D kernels in channels-last order."""
    module.requires_grad_(False).to(device, dtype)
    for parameter in module.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{name!r} is no device: cpu, cuda, cuda:N and auto are") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name} was asked for, but torch sees no CUDA device here: use cpu")
    return device


def _check_choice(what: str, came: str, allowed: tuple[str, ...]) -> None:
    if came not in allowed:
        raise ValueError(f"{what} is {came!r}, but it must be one of: {', '.join(allowed)}")
