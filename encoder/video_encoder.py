"""One encoder on one device: clips and streams of frames in, posteriors out, and the copies to the device.

An engine (encoder/streaming/) runs the model.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.computed_by import computed_by, machine
from encoder.device.busy import Busy, LastEnd, busy_on
from encoder.device.cuda import exact_arithmetic
from encoder.device.downloads import Fetch, downloads_from
from encoder.device.memory import available_bytes, readable
from encoder.device.seconds import DeviceSeconds
from encoder.device.self_test import self_test
from encoder.device.timing import timed
from encoder.device.uploads import uploads_to
from encoder.posterior import Posterior, from_moments, joined
from encoder.spec import LatentSpec
from encoder.streaming.engines import Engine, Streaming
from encoder.streaming.footprint import encode_bytes, encode_flops
from encoder.streaming.layer_fields import receptive_field_of
from encoder.streaming.receptive_field import ReceptiveField
from encoder.streaming.tiles import Tiled

__all__ = [
    "ClipMemoryError",
    "OutOfMemoryError",
    "Posterior",
    "Stream",
    "VideoEncoder",
    "joined",
    "machine",
    "timed",
]

OutOfMemoryError = torch.cuda.OutOfMemoryError  # its name in every supported version of torch


class ClipMemoryError(ValueError):
    """There is too little memory for a clip that must be encoded whole."""


class Stream:
    """Encodes one clip from frames that arrive in portions of any size.

    Memory does not grow with the clip, unless it must be encoded whole (`VideoEncoder.streams`).
    """

    def __init__(self, encoder: "VideoEncoder", frames: int, plan: Sequence[int]) -> None:
        self._encoder, self._frames = encoder, frames
        self._plan = deque(plan)  # the chunks still to be encoded
        self._state: Any = None
        self._waiting: list[Tensor] = []
        self._frames_pushed = 0
        self._picture: tuple[int, ...] | None = None  # batch, height and width of the clip, once known
        self._busy = encoder.busy()

    @torch.inference_mode()
    def push(self, video: Tensor) -> Posterior | None:
        """Takes the next frames `b 3 t h w` in [-1, 1]; returns the latents that they complete, if any.

        Raises:
            ValueError: more frames than the stream was opened for, or frames of another shape than earlier ones.
            ClipMemoryError: the clip must be encoded whole and is too large.
        """
        self._check(video)
        self._frames_pushed += video.shape[2]
        self._waiting.append(video.to(self._encoder.device, self._encoder.dtype))
        ready = []
        while self._plan and sum(part.shape[2] for part in self._waiting) >= self._plan[0]:
            ready.append(self._encode(self._plan.popleft()))
        return joined(ready) if ready else None

    def finish(self) -> None:
        """Ends the clip. Raises ValueError if frames are missing."""
        if self._frames_pushed < self._frames:
            raise ValueError(f"the clip ended after {self._frames_pushed} frames of {self._frames}")

    def take_device_seconds(self) -> DeviceSeconds:
        """Seconds of finished computation for this clip since the last call, and those idle before each piece of it."""
        return self._busy.take_seconds()

    def _encode(self, frames: int) -> Posterior:
        together = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting, 2)
        self._waiting = [together[:, :, frames:]] if together.shape[2] > frames else []
        with self._encoder.one_at_a_time, exact_arithmetic(), self._busy:
            moments, state = self._encoder.engine.encode_chunk(together[:, :, :frames], self._state)
        self._state = state if self._plan else None
        return from_moments(moments, self._encoder.spec.latent_channels)

    def _check(self, video: Tensor) -> None:
        if video.ndim != 5 or video.shape[1] != 3 or not video.is_floating_point():
            raise ValueError(
                f"push takes `b 3 t h w` floats in [-1, 1], got {video.dtype} {tuple(video.shape)}; "
                "to_video makes them from uint8 frames"
            )
        if self._frames_pushed + video.shape[2] > self._frames:
            raise ValueError(f"{self._frames_pushed + video.shape[2]} frames pushed into a stream of {self._frames}")
        batch, _, _, height_px, width_px = video.shape
        if self._picture is None:
            self._encoder.check_clip(batch, self._frames, height_px, width_px)
            self._picture = (batch, height_px, width_px)
        elif self._picture != (batch, height_px, width_px):
            raise ValueError(f"frames of (batch, height, width) {(batch, height_px, width_px)} after {self._picture}")


class VideoEncoder:
    """One encoder with its weights on one device, loaded by `encoder.load`.

    `identity` is plain JSON with everything that changes a latent, to be stored with latents. `tunable` names the
    convolutions that several algorithms can compute.
    """

    def __init__(
        self,
        engine: Engine,
        shadow: Engine,
        spec: LatentSpec,
        identity: dict[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        tunable: tuple[str, ...] = (),
    ) -> None:
        """`shadow` is the same engine over a model on torch's meta device, without values."""
        self._last_end = LastEnd()
        self.engine, self.shadow = engine, shadow
        self.spec, self.identity = spec, identity
        self.device, self.dtype, self.tunable = device, dtype, tunable
        self.weights_sha256: str = identity["weights_sha256"]
        self._upload, self._download = uploads_to(device), downloads_from(device)
        self.one_at_a_time = Lock()  # threads may have clips open at once, and layers reuse memory
        self._encode_bytes: dict[tuple[int, int, int, int], int] = {}

    def encode(self, video: Tensor) -> Posterior:
        """`b 3 t h w` in [-1, 1] to its posterior, chunk by chunk.

        Raises:
            ValueError: an illegal frame count or picture size, or a tensor of another shape or type.
            ClipMemoryError: the clip must be encoded whole and is too large.
        """
        if video.ndim != 5:
            raise ValueError(f"encode takes `b 3 t h w`, got {tuple(video.shape)}")
        frames = video.shape[2]
        return self._encoded(frames, torch.split(video, list(self.plan(frames)), dim=2))

    def encode_image(self, video: Tensor, zero_frames: int = 0) -> Posterior:
        """The posterior of the clip's first frame with `zero_frames` of value 0 after it, for image-to-video training.

        Where norm statistics span several frames, that of the frame alone differs from the clip's first latent frame.
        """
        image = video[:, :, :1]

        def chunks() -> Iterator[Tensor]:
            first_frames, *others = self.plan(1 + zero_frames)
            yield torch.nn.functional.pad(image, (0, 0, 0, 0, 0, first_frames - 1))
            for frames in others:
                yield image.new_zeros((*image.shape[:2], frames, *image.shape[3:]))

        return self._encoded(1 + zero_frames, chunks())

    def _encoded(self, frames: int, chunks: Iterable[Tensor]) -> Posterior:
        stream = self.stream(frames)
        parts = [stream.push(chunk) for chunk in chunks]
        stream.finish()
        return joined([part for part in parts if part is not None])

    def stream(self, frames: int, plan: Sequence[int] = ()) -> Stream:
        """Opens a clip of `frames` frames, a legal count, that will be pushed in portions.

        Args:
            plan: the chunks to encode it in, if not those of `self.plan`, such as those of a longer clip of which
                this one is a part.
        """
        own = self.plan(frames)
        if plan and (
            sum(plan) != frames or not all(self.spec.is_legal_frames(n + (i > 0)) for i, n in enumerate(plan))
        ):
            raise ValueError(f"chunks of {tuple(plan)} frames are not a plan of a clip of {frames}")
        return Stream(self, frames, plan or own)

    def plan(self, frames: int) -> tuple[int, ...]:
        """The chunks in which a clip of `frames` frames is encoded. Raises ValueError for an illegal count."""
        self.spec.latent_frames(frames)
        return self.engine.plan(frames)

    @property
    def streams(self) -> bool:
        """Whether memory is independent of a clip's length; if not, check `encode_bytes` first."""
        return self.engine.streams

    @property
    def device_name(self) -> str:
        """The model of a GPU, else the kind of device."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @property
    def computed_by(self) -> dict[str, str]:
        """The device and the libraries that compute latents here, which decide their last bits."""
        return computed_by(self.device, in_c="winograd_c" in self.identity["convolutions"].values())

    @property
    def times_halved(self) -> int:
        """How often a convolution was computed in halves so far, as its device had no memory for all of it."""
        model = getattr(_innermost(self.engine), "model", None)
        layers = model.modules() if isinstance(model, torch.nn.Module) else ()
        return sum(getattr(layer, "times_halved", 0) for layer in layers)

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """How many earlier frames a latent depends on; None if the encoder does not stream, where it is all of them."""
        engine = _innermost(self.shadow)
        return receptive_field_of(engine.model, self.identity) if isinstance(engine, Streaming) else None

    def encode_bytes(self, frames: int, height_px: int, width_px: int, batch: int = 1) -> int:
        """Peak memory of encoding clips of this shape, with their frames but without the weights.

        Found by a run without values, which takes about a second for a new shape. Winograd convolutions take some tens
        of megabytes per CPU thread, or up to 0.3 GB of a GPU, in addition.
        """
        self.spec.latent_shape(frames, height_px, width_px)
        shape = (batch, frames, height_px, width_px)
        if shape not in self._encode_bytes:
            self._encode_bytes[shape] = encode_bytes(self.shadow, *shape, self.dtype)
        return self._encode_bytes[shape]

    def encode_flops(self, frames: int, height_px: int, width_px: int) -> int:
        """Floating point operations of encoding a clip of this shape directly, two per multiplication."""
        self.spec.latent_shape(frames, height_px, width_px)
        return encode_flops(self.shadow, frames, height_px, width_px, self.dtype)

    def check_clip(self, batch: int, frames: int, height_px: int, width_px: int) -> None:
        """Raises ValueError or ClipMemoryError if such a clip cannot be encoded."""
        self.spec.latent_shape(frames, height_px, width_px)
        if self.streams:
            return
        needed, available = self.encode_bytes(frames, height_px, width_px, batch), available_bytes(self.device)
        if needed > available:
            raise ClipMemoryError(
                f"{batch} clip(s) of {frames}x{height_px}x{width_px} must be encoded whole, or with what every frame "
                f"leaves, which needs {readable(needed)}, and {self.device} has {readable(available)}: "
                "use fewer frames, smaller pictures, tiles, or an encoder that streams (norm_scope chunk or frame)"
            )

    def self_test(self, frames: int, height_px: int, width_px: int) -> None:
        """Raises ValueError if a GPU computes a convolution of a clip's chunk wrongly; nothing is tested on a CPU."""
        if self.device.type == "cuda":
            self_test(max(self.plan(frames)), height_px, width_px, self.dtype, self.device)

    def busy(self) -> Busy:
        """Returns a counter of the seconds that the device computes."""
        return busy_on(self.device, self._last_end)

    def fetch(self, values: Tensor) -> Fetch:
        """Starts a copy to the host without waiting; call the result to wait for the values."""
        return self._download(values)

    @torch.inference_mode()
    def to_video(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """`t h w c` or `b t h w c` uint8 RGB to `b 3 t h w` in [-1, 1] on the encoder's device, in its precision."""
        if frames.ndim not in (4, 5) or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"to_video takes `t h w 3` or `b t h w 3` uint8, got {frames.dtype} {frames.shape}")
        uploaded = self._upload(frames if frames.ndim == 5 else frames[None])
        return self._scaled(uploaded).permute(0, 4, 1, 2, 3)

    def _scaled(self, uploaded: Tensor) -> Tensor:
        """uint8 to [-1, 1] in the encoder's precision, of the same shape."""
        return uploaded.float().div_(127.5).sub_(1).to(self.dtype)


def _innermost(engine: Engine) -> Engine:
    """The engine that passes tiles or clips to a model."""
    return engine.engine if isinstance(engine, Tiled) else engine
