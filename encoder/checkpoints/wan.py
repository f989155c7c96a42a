"""Checkpoints of Wan 2.1 and 2.2 and of Qwen-Image: diffusers' and the original."""

from typing import Any

from encoder.checkpoints.layout import Config, Layout, Shapes, UnsupportedError, count, require
from encoder.models.wan import WanParams

NAMES = (
    # diffusers AutoencoderKLWan
    (r"^encoder\.conv_in\.", "stem.conv."),
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.", r"down.\1.blocks."),
    (r"^encoder\.down_blocks\.(\d+)\.downsampler\.", r"down.\1.halve."),
    (r"^encoder\.down_blocks\.", "down."),
    (r"^encoder\.mid_block\.resnets\.0\.", "middle.0."),
    (r"^encoder\.mid_block\.attentions\.0\.", "middle.1."),
    (r"^encoder\.mid_block\.resnets\.1\.", "middle.2."),
    (r"^encoder\.norm_out\.", "head.norm."),
    (r"^encoder\.conv_out\.", "head.conv."),
    (r"^quant_conv\.", "head.mix."),
    (r"\.conv_shortcut\.", ".shortcut."),
    # as Wan published it; norms, swish and convolutions are numbered
    (r"^encoder\.conv1\.", "stem.conv."),
    (r"^encoder\.downsamples\.(\d+)\.downsamples\.\d+\.(resample\.1|time_conv)\.", r"down.\1.halve.\2."),
    (r"^encoder\.downsamples\.(\d+)\.downsamples\.", r"down.\1.blocks."),
    (r"^encoder\.downsamples\.", "down."),
    (r"^encoder\.middle\.", "middle."),
    (r"^encoder\.head\.0\.", "head.norm."),
    (r"^encoder\.head\.2\.", "head.conv."),
    (r"^conv1\.", "head.mix."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    # both
    (r"\.resample\.1\.", ".picture."),
    (r"\.time_conv\.", ".time."),
    (r"\.to_qkv\.", ".qkv."),
    (r"\.proj\.", ".project."),
    (r"\.gamma$", ".weight"),
)


def _layout(classes: tuple[str, ...], diffusers_mark: str, original_mark: str) -> Layout:
    return Layout(
        classes=classes,
        names=NAMES,
        first=("encoder.conv_in.weight", "encoder.conv1.weight"),
        marks=((diffusers_mark,), (original_mark,)),
        foreign=("decoder.", "post_quant_conv.", "conv2."),
    )


WAN = _layout(
    ("AutoencoderKLWan", "AutoencoderKLQwenImage"),
    r"encoder\.down_blocks\.0\.norm1\.gamma",
    r"encoder\.downsamples\.0\.residual\.0\.gamma",
)
WAN22 = _layout(
    ("AutoencoderKLWan",),
    r"encoder\.down_blocks\.0\.resnets\.0\.conv1\.weight",
    r"encoder\.downsamples\.0\.downsamples\.0\.residual\.0\.gamma",
)


def params_of_config(config: Config) -> WanParams:
    """Raises UnsupportedError for what the encoder does not compute."""
    patch_px, base = config.get("patch_size") or 1, config.get("base_dim", 96)
    require(config, attn_scales=[], in_channels=3 * patch_px**2, input_channels=3)
    halves_time = tuple(config.get("temperal_downsample", (False, True, True)))
    return WanParams(
        channels=tuple(base * times for times in config.get("dim_mult", (1, 2, 4, 4))),
        blocks_per_level=config.get("num_res_blocks", 2),
        halves_time=halves_time,
        latent_channels=config.get("z_dim", 16),
        stem_channels=base,
        patch_px=patch_px,
        residual=config.get("is_residual", False),
    )


def params_of_shapes(shapes: Shapes, default: WanParams) -> WanParams:
    """From the tensors' shapes, which tell everything."""
    if not {"stem.conv.weight", "head.mix.weight"} <= shapes.keys():
        return default
    stem_channels, pixel_channels = shapes["stem.conv.weight"][:2]
    patch_px = round((pixel_channels / 3) ** 0.5)
    if pixel_channels != 3 * patch_px**2:
        raise UnsupportedError(f"its first convolution takes {pixel_channels} channels, which are no patches of RGB")
    residual = "down.0.blocks.0.conv1.weight" in shapes
    levels = _levels(shapes, residual)
    return WanParams(
        channels=tuple(level[0] for level in levels),
        blocks_per_level=levels[0][1],
        halves_time=tuple(level[2] for level in levels[:-1]),
        latent_channels=shapes["head.mix.weight"][0] // 2,
        stem_channels=stem_channels,
        patch_px=patch_px,
        residual=residual,
    )


def _levels(shapes: Shapes, residual: bool) -> list[tuple[int, int, bool]]:
    """Channels, blocks and whether time is halved, of each level."""
    if residual:
        return [
            (
                shapes[f"down.{level}.blocks.0.conv1.weight"][0],
                count(shapes, rf"down\.{level}\.blocks\.(\d+)\."),
                f"down.{level}.halve.time.weight" in shapes,
            )
            for level in range(count(shapes, r"down\.(\d+)\."))
        ]
    levels: list[tuple[int, int, bool]] = []
    channels, blocks = 0, 0
    for layer in range(count(shapes, r"down\.(\d+)\.")):
        if f"down.{layer}.picture.weight" in shapes:
            levels.append((channels, blocks, f"down.{layer}.time.weight" in shapes))
            blocks = 0
        else:
            channels, blocks = shapes[f"down.{layer}.conv1.weight"][0], blocks + 1
    return [*levels, (channels, blocks, False)]


def config_of(params: WanParams) -> dict[str, Any]:
    """The arguments of diffusers' class for the same architecture."""
    return {
        "base_dim": params.base_channels,
        "dim_mult": [channels // params.base_channels for channels in params.channels],
        "num_res_blocks": params.blocks_per_level,
        "temperal_downsample": list(params.halves_time),
        "z_dim": params.latent_channels,
        "in_channels": 3 * params.patch_px**2,
        "out_channels": 3 * params.patch_px**2,
        "is_residual": params.residual,
        "patch_size": params.patch_px if params.patch_px > 1 else None,
        "scale_factor_spatial": params.spatial_ratio,
    }
