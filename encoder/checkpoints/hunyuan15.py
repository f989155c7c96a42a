"""Checkpoints of HunyuanVideo 1.5: diffusers' and the original."""

from typing import Any

from encoder.checkpoints.layout import Config, Layout, Shapes, count, fused_attention, require
from encoder.models.hunyuan15 import Hunyuan15Params

NAMES = (
    # diffusers AutoencoderKLHunyuanVideo15
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"levels.\1.block\2."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv\.conv\.", r"levels.\1.down.conv."),
    (r"^encoder\.mid_block\.resnets\.0\.", "middle.0."),
    (r"^encoder\.mid_block\.attentions\.0\.", "middle.1."),
    (r"^encoder\.mid_block\.resnets\.1\.", "middle.2."),
    (r"\.to_([qkv])\.", r".\1."),
    # the original
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"levels.\1.block\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.conv\.conv\.", r"levels.\1.down.conv."),
    (r"^encoder\.mid\.block_1\.", "middle.0."),
    (r"^encoder\.mid\.attn_1\.", "middle.1."),
    (r"^encoder\.mid\.block_2\.", "middle.2."),
    # both
    (r"^encoder\.conv_in\.conv\.", "stem.conv."),
    (r"^encoder\.norm_out\.", "head.norm."),
    (r"^encoder\.conv_out\.conv\.", "head.conv."),
    (r"\.conv([12])\.conv\.", r".conv\1."),
    (r"\.(conv|nin)_shortcut\.", ".shortcut."),
    (r"\.proj_out\.", ".project."),
    (r"\.gamma$", ".weight"),
)
LAYOUT = Layout(
    classes=("AutoencoderKLHunyuanVideo15", "AutoencoderKLConv3D"),
    names=NAMES,
    first=("encoder.conv_in.conv.weight",),
    marks=((r"encoder\.norm_out\.gamma", r"encoder\.conv_in\.conv\.weight"),),
    foreign=("decoder.",),
    finish=fused_attention,
)
SPATIAL, TEMPORAL = ("spatial_compression_ratio", "ffactor_spatial"), ("temporal_compression_ratio", "ffactor_temporal")


def params_of_config(config: Config) -> Hunyuan15Params:
    """Raises UnsupportedError for what the encoder does not compute."""
    require(config, in_channels=3, downsample_match_channel=True)
    spatial, temporal = (
        next((config[key] for key in keys if config.get(key)), default)
        for keys, default in ((SPATIAL, 16), (TEMPORAL, 4))
    )
    return Hunyuan15Params(
        channels=tuple(config["block_out_channels"]),
        blocks_per_level=config["layers_per_block"],
        latent_channels=config["latent_channels"],
        spatial_ratio=spatial,
        temporal_ratio=temporal,
    )


def params_of_shapes(shapes: Shapes, default: Hunyuan15Params) -> Hunyuan15Params:
    """From the tensors' shapes, which tell everything."""
    levels = count(shapes, r"levels\.(\d+)\.block0\.conv1\.weight")
    if not levels or "head.conv.weight" not in shapes:
        return default
    channels = [shapes[f"levels.{level}.block0.conv1.weight"][0] for level in range(levels)]
    downs = [shapes[name][0] for level in range(levels) if (name := f"levels.{level}.down.conv.weight") in shapes]
    folds = [after // folded for after, folded in zip(channels[1:], downs, strict=False)]
    return Hunyuan15Params(
        channels=tuple(channels),
        blocks_per_level=count(shapes, r"levels\.0\.block(\d+)\."),
        latent_channels=shapes["head.conv.weight"][0] // 2,
        spatial_ratio=1 << len(folds),
        temporal_ratio=1 << folds.count(8),
    )


def config_of(params: Hunyuan15Params) -> dict[str, Any]:
    """The arguments of diffusers' class for the same architecture."""
    return {
        "block_out_channels": params.channels,
        "layers_per_block": params.blocks_per_level,
        "latent_channels": params.latent_channels,
        "spatial_compression_ratio": params.spatial_ratio,
        "temporal_compression_ratio": params.temporal_ratio,
    }
