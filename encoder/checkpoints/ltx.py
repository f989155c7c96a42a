"""Checkpoints of LTX-Video and LTX-2: diffusers' and the original. The scaling of latents is among the tensors."""

import re
from typing import Any

from encoder.checkpoints.layout import Config, Layout, Shapes, Tensors, UnsupportedError, count, require
from encoder.models.ltx import BOTH, SPATIAL, TEMPORAL, LtxLevel, LtxParams

NAMES = (
    # diffusers AutoencoderKLLTXVideo and AutoencoderKLLTX2Video
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"levels.\1.block\2."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r"levels.\1.down."),
    (r"^encoder\.down_blocks\.(\d+)\.conv_out\.", r"levels.\1.change."),
    (r"^encoder\.mid_block\.resnets\.(\d+)\.", r"middle.\1."),
    # the original, whose levels, samplers and changes are numbered together
    (r"^encoder\.down_blocks\.(\d+)\.res_blocks\.(\d+)\.", r"numbered.\1.block\2."),
    (r"^encoder\.down_blocks\.(\d+)\.conv\.", r"numbered.\1.down."),
    (r"^encoder\.down_blocks\.(\d+)\.", r"numbered.\1.change."),
    # both
    (r"^encoder\.conv_in\.conv\.", "stem.conv."),
    (r"^encoder\.conv_out\.conv\.", "head.conv."),
    (r"\.conv([12])\.conv\.", r".conv\1."),
    (r"\.norm3\.(norm\.)?", ".shortcut.norm."),
    (r"\.conv_shortcut\.(conv\.)?", ".shortcut.conv."),
)
STRIDES = {"spatial": SPATIAL, "temporal": TEMPORAL, "spatiotemporal": BOTH}


def _finish(tensors: Tensors) -> Tensors:
    """With the parts of the original in levels; the last of them is the middle."""
    parts = {int(match[1]): match[2] for name in tensors if (match := re.match(r"numbered\.(\d+)\.([a-z]+)", name))}
    prefixes, level = {}, -1
    for number in sorted(parts):
        level += parts[number] == "block"
        prefixes[f"numbered.{number}."] = f"levels.{level}."
    if parts:
        prefixes[f"numbered.{max(parts)}."] = "middle."
    return {_renamed(name, prefixes): tensor for name, tensor in tensors.items()}


def _renamed(name: str, prefixes: dict[str, str]) -> str:
    found = re.match(r"numbered\.\d+\.", name)
    name = prefixes[found[0]] + name[found.end() :] if found else name
    return re.sub(r"^middle\.block", "middle.", name)


LAYOUT = Layout(
    classes=("AutoencoderKLLTXVideo", "AutoencoderKLLTX2Video"),
    names=NAMES,
    first=("encoder.conv_in.conv.weight",),
    marks=(
        (r"encoder\.down_blocks\.0\.resnets\.0\.conv1\.conv\.weight", "latents_mean"),
        (r"encoder\.down_blocks\.0\.res_blocks\.0\.conv1\.conv\.weight",),
    ),
    foreign=("decoder.", "per_channel_statistics."),
    finish=_finish,
    scaling={
        "latents_mean": "latents_mean",
        "latents_std": "latents_std",
        "per_channel_statistics.mean-of-means": "latents_mean",
        "per_channel_statistics.std-of-means": "latents_std",
    },
)


def params_of_config(config: Config) -> LtxParams:
    """Raises UnsupportedError for what the encoder does not compute."""
    require(config, in_channels=3, patch_size_t=1, encoder_causal=True, encoder_spatial_padding_mode="zeros")
    widths, layers = tuple(config["block_out_channels"]), tuple(config["layers_per_block"])
    if config["_class_name"] == "AutoencoderKLLTX2Video":
        widths = (config["latent_channels"], *widths)
    elif config["down_block_types"][-1] == "LTXVideoDownBlock3D":
        widths = (*widths, widths[-1])
    scales = config["spatio_temporal_scaling"]
    scales = [scales] * (len(widths) - 1) if isinstance(scales, bool) else scales
    kinds = config.get("downsample_type", ["conv"] * len(scales))
    return LtxParams(
        tuple(
            _level(width, blocks, kind if scaled else None)
            for width, blocks, scaled, kind in zip(widths[:-1], layers[:-1], scales, kinds, strict=False)
        ),
        middle_channels=widths[-1],
        middle_blocks=layers[-1],
        latent_channels=config["latent_channels"],
        patch_px=config["patch_size"],
        eps=config["resnet_norm_eps"],
    )


def _level(channels: int, blocks: int, kind: str | None) -> LtxLevel:
    if kind == "conv":
        return LtxLevel(channels, blocks, BOTH, strided=True)
    if kind is not None and kind not in STRIDES:
        raise UnsupportedError(f"downsample_type is {kind}, and only conv, {', '.join(STRIDES)} are supported")
    return LtxLevel(channels, blocks, None if kind is None else STRIDES[kind])


def params_of_shapes(shapes: Shapes, default: LtxParams) -> LtxParams:
    """From the tensors' shapes, which tell everything but the epsilon of norms."""
    levels = count(shapes, r"levels\.(\d+)\.block0\.conv1\.weight")
    if not levels or not {"stem.conv.weight", "head.conv.weight", "middle.0.conv1.weight"} <= shapes.keys():
        return default
    middle = shapes["middle.0.conv1.weight"][0]
    widths = [*(shapes[f"levels.{level}.block0.conv1.weight"][0] for level in range(levels)), middle]
    return LtxParams(
        tuple(_level_of_shapes(shapes, level, widths[level + 1]) for level in range(levels)),
        middle_channels=middle,
        middle_blocks=count(shapes, r"middle\.(\d+)\."),
        latent_channels=shapes["head.conv.weight"][0] - 1,
        patch_px=round((shapes["stem.conv.weight"][1] / 3) ** 0.5),
        eps=default.eps,
    )


def _level_of_shapes(shapes: Shapes, level: int, next_channels: int) -> LtxLevel:
    channels = shapes[f"levels.{level}.block0.conv1.weight"][0]
    blocks = count(shapes, rf"levels\.{level}\.block(\d+)\.")
    if f"levels.{level}.down.weight" in shapes:
        return LtxLevel(channels, blocks, BOTH, strided=True)
    if (conv := shapes.get(f"levels.{level}.down.conv.weight")) is None:
        return LtxLevel(channels, blocks, None)
    folds = {stride[0] * stride[1] * stride[2]: stride for stride in (SPATIAL, TEMPORAL, BOTH)}
    if (stride := folds.get(next_channels // conv[0])) is None:
        raise UnsupportedError(f"level {level} folds {next_channels // conv[0]} pixels into channels, not 2, 4 or 8")
    return LtxLevel(channels, blocks, stride)


def config_of(params: LtxParams) -> dict[str, Any]:
    """The arguments of diffusers' AutoencoderKLLTX2Video for the same architecture, if its levels fold."""
    kinds = {stride: kind for kind, stride in STRIDES.items()}
    return {
        "latent_channels": params.latent_channels,
        "block_out_channels": (*(level.channels for level in params.levels[1:]), params.middle_channels),
        "layers_per_block": (*(level.blocks for level in params.levels), params.middle_blocks),
        "downsample_type": tuple(kinds[level.stride] for level in params.levels if level.stride),
        "spatial_compression_ratio": params.spatial_ratio,
        "temporal_compression_ratio": params.temporal_ratio,
    }
