"""Checkpoints of CogVideoX: diffusers' and the original (SAT)."""

from dataclasses import replace
from typing import Any

from encoder.checkpoints.layout import Config, Layout, Shapes, Tensors, count, fused_attention, require
from encoder.models.cogvideox import CogVideoXParams

NAMES = (
    # diffusers AutoencoderKLCogVideoX
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"levels.\1.block\2."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r"levels.\1.down.picture."),
    (r"^encoder\.mid_block\.resnets\.(\d+)\.", r"middle.\1."),
    # SAT, as CogVideoX was published first; its middle is block_1, attn_1, block_2
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"levels.\1.block\2."),
    (r"^encoder\.down\.(\d+)\.attn\.(\d+)\.", r"levels.\1.attention\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.conv\.", r"levels.\1.down.picture."),
    (r"^encoder\.mid\.block_1\.", "middle.0."),
    (r"^encoder\.mid\.attn_1\.", "middle.1."),
    (r"^encoder\.mid\.block_2\.", "middle.last."),
    # both
    (r"^encoder\.conv_in\.conv\.", "stem.conv."),
    (r"^encoder\.norm_out\.", "head.norm."),
    (r"^encoder\.conv_out\.conv\.", "head.conv."),
    (r"\.conv([12])\.conv\.", r".conv\1."),
    (r"\.(conv|nin)_shortcut\.", ".shortcut."),
    (r"\.proj_out\.", ".project."),
)


def _finish(tensors: Tensors) -> Tensors:
    """With queries, keys and values of attention in one tensor, and the middle's last block by its number."""
    tensors = fused_attention(tensors)
    last = "middle.2." if "middle.1.qkv.weight" in tensors else "middle.1."
    return {name.replace("middle.last.", last): tensor for name, tensor in tensors.items()}


LAYOUT = Layout(
    classes=("AutoencoderKLCogVideoX",),
    names=NAMES,
    first=("encoder.conv_in.conv.weight",),
    marks=((r"encoder\.norm_out\.weight", r"encoder\.conv_in\.conv\.weight"),),
    foreign=("decoder.", "post_quant_conv.", "loss."),
    finish=_finish,
)


def params_of_config(config: Config) -> CogVideoXParams:
    """Raises UnsupportedError for what the encoder does not compute."""
    require(config, in_channels=3, act_fn="silu", use_quant_conv=False)
    for kind in config.get("down_block_types", ()):
        require({"down_block_types": kind}, down_block_types="CogVideoXDownBlock3D")
    return CogVideoXParams(
        channels=tuple(config.get("block_out_channels", (128, 256, 256, 512))),
        blocks_per_level=config.get("layers_per_block", 3),
        latent_channels=config.get("latent_channels", 16),
        groups=config.get("norm_num_groups", 32),
        eps=config.get("norm_eps", 1e-6),
        temporal_ratio=int(config.get("temporal_compression_ratio", 4)),
    )


def params_of_shapes(shapes: Shapes, default: CogVideoXParams) -> CogVideoXParams:
    """From the tensors' shapes; groups, epsilon and the temporal ratio, which no shape tells, are the default's."""
    levels = count(shapes, r"levels\.(\d+)\.block0\.conv1\.weight")
    if not levels or "head.conv.weight" not in shapes:
        return default
    return replace(
        default,
        channels=tuple(shapes[f"levels.{level}.block0.conv1.weight"][0] for level in range(levels)),
        blocks_per_level=count(shapes, r"levels\.0\.block(\d+)\."),
        latent_channels=shapes["head.conv.weight"][0] // (1 + default.double_latents),
        attention_levels=tuple(level for level in range(levels) if f"levels.{level}.attention0.qkv.weight" in shapes),
        middle_attention="middle.1.qkv.weight" in shapes,
    )


def config_of(params: CogVideoXParams) -> dict[str, Any]:
    """The arguments of diffusers' class for the same architecture."""
    return {
        "block_out_channels": list(params.channels),
        "layers_per_block": params.blocks_per_level,
        "latent_channels": params.latent_channels,
        "norm_num_groups": params.groups,
        "norm_eps": params.eps,
        "temporal_compression_ratio": params.temporal_ratio,
    }
