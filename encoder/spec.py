"""What a latent is: ratios, channels, scaling and legal frame counts of each encoder, without torch."""

import difflib
from dataclasses import dataclass
from typing import Any, Literal

# The allowed values of options of `encoder.load`
Dtype = Literal["float32", "bfloat16", "float16"]
NormScope = Literal["chunk", "clip", "frame"]
ChunkPlan = Literal["diffusers", "even"]
Convolutions = Literal["auto", "direct", "winograd_height", "winograd", "winograd_c"]
AUTO, DIRECT = "auto", "direct"  # the choices of `Convolutions` that name no algorithm of our own


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """The shape and scale of one encoder's latents.

    A clip of `1 + k * temporal_ratio` frames gives `1 + k` latent frames, the first of them for the first frame alone.
    Readers of latents apply `scaling` before training; the encoder only records it.
    `latents_mean` and `latents_std` are by channel, for Cosmos by channel and latent frame; `sigma_data` is that of
    Cosmos' scheduler. `invert_scale_latents`: the model divides the latent of a first frame, its condition, by
    `scaling_factor`.
    """

    name: str
    latent_channels: int
    temporal_ratio: int
    spatial_ratio: int
    scaling_factor: float | None = None
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    sigma_data: float | None = None
    invert_scale_latents: bool = False

    @property
    def scaling_formula(self) -> str | None:
        """The family's own formula for a latent `z`, in names of fields; None if it is unknown."""
        sigma = "" if self.sigma_data is None else " * sigma_data"
        if self.latents_mean is not None and self.latents_std is not None:
            factor = "" if self.scaling_factor is None else " * scaling_factor"
            return f"(z - latents_mean){factor}{sigma} / latents_std"
        if self.scaling_factor is None:
            return None
        shifted = "z" if self.shift_factor is None else "(z - shift_factor)"
        return f"{shifted} * scaling_factor{sigma}"

    @property
    def scaling(self) -> dict[str, Any] | None:
        """What to do to a latent `z` of `c t h w` before training, as plain JSON; None if it is unknown.

        `(z - shift) * scale`, both reshaped to `shape`, whose second axis, where it is not 1, has a value for each
        latent frame from the first on. `image_scale` takes the place of `scale` for the latent of a first frame.
        """
        if self.scaling_formula is None:
            return None
        factor = (1.0 if self.scaling_factor is None else self.scaling_factor) * (self.sigma_data or 1.0)
        shift, scale, shape = [self.shift_factor or 0.0], [factor], [1, 1, 1, 1]
        if self.latents_mean is not None and self.latents_std is not None:
            shift, scale = list(self.latents_mean), [factor / std for std in self.latents_std]
            shape = [self.latent_channels, len(scale) // self.latent_channels, 1, 1]
        image_scale = [1 / one for one in scale] if self.invert_scale_latents else scale
        rule = {"formula": "(z - shift) * scale", "shape": shape, "shift": shift, "scale": scale}
        return rule | {"image_scale": image_scale}

    def is_legal_frames(self, frames: int) -> bool:
        """Whether a clip may have this many frames: 1 + k * temporal_ratio."""
        return frames >= 1 and (frames - 1) % self.temporal_ratio == 0

    def trim_frames(self, frames: int) -> int:
        """The largest legal count up to `frames`. Raises ValueError if there is none."""
        if frames < 1:
            raise ValueError(f"a clip of {frames} frames cannot be trimmed to a legal count: at least 1 is needed")
        return frames - (frames - 1) % self.temporal_ratio

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip. Raises ValueError for an illegal count, naming the legal ones around it."""
        if not self.is_legal_frames(frames):
            below = self.trim_frames(max(frames, 1))
            raise ValueError(
                f"{self.name} cannot encode {frames} frames: a legal count is 1 + {self.temporal_ratio}k, "
                f"such as {below} or {below + self.temporal_ratio}"
            )
        return 1 + (frames - 1) // self.temporal_ratio

    def latent_shape(self, frames: int, height_px: int, width_px: int) -> tuple[int, int, int, int]:
        """`c t h w` of the latent of a clip. Raises ValueError for an illegal frame count or picture size."""
        ratio = self.spatial_ratio
        if min(height_px, width_px) < ratio or height_px % ratio or width_px % ratio:
            raise ValueError(
                f"{self.name} cannot encode {height_px}x{width_px} pixels: height and width must be multiples "
                f"of {ratio}, such as {max(height_px // ratio, 1) * ratio}x{max(width_px // ratio, 1) * ratio}"
            )
        return self.latent_channels, self.latent_frames(frames), height_px // ratio, width_px // ratio


# Per channel, over Wan's training data: from the published configuration of Wan 2.1
WAN_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
WAN_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)

# Of Wan 2.2 TI2V-5B
WAN22_MEAN = (
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891),
    *(0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723),
    *(-0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
)
WAN22_STD = (
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901),
    *(0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944),
    *(0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)

SHIPPED_WEIGHTS = ("tiny",)  # trained ones that come with this package, in encoder/shipped/
SIMULATED = "simulated"  # no model: it takes time and returns noise, to measure what feeds an encoder

SPECS = {
    spec.name: spec
    for spec in (
        LatentSpec("cogvideox", 16, temporal_ratio=4, spatial_ratio=8, scaling_factor=1.15258426),
        LatentSpec("tiny", 16, temporal_ratio=4, spatial_ratio=8, scaling_factor=1.0),
        LatentSpec("wan", 16, temporal_ratio=4, spatial_ratio=8, latents_mean=WAN_MEAN, latents_std=WAN_STD),
        LatentSpec("wan2.2", 48, temporal_ratio=4, spatial_ratio=16, latents_mean=WAN22_MEAN, latents_std=WAN22_STD),
        LatentSpec("ltx", 128, temporal_ratio=8, spatial_ratio=32),  # mean and deviation are in the weights
        LatentSpec("hunyuan1.5", 32, temporal_ratio=4, spatial_ratio=16, scaling_factor=1.03682),
        LatentSpec(SIMULATED, 16, temporal_ratio=4, spatial_ratio=8, scaling_factor=1.0),
    )
}


DIFFUSERS = "diffusers"  # a VAE that diffusers runs; its folder says what its latents are


def names() -> tuple[str, ...]:
    """The encoders that `encoder.load` knows."""
    return (*SPECS, DIFFUSERS)


def spec_of(name: str) -> LatentSpec:
    """The spec of a native encoder; a checkpoint's config may give other scaling values.

    Raises:
        ValueError: the encoder is unknown, or it is `diffusers`, whose spec comes with its weights.
    """
    if name in SPECS:
        return SPECS[name]
    if name == DIFFUSERS:
        raise ValueError("the latents of encoder 'diffusers' are described by its folder: load it first")
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"unknown encoder {name!r}: {hint}use one of {', '.join(names())}")
