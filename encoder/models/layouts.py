"""Published layouts: how checkpoints name the tensors, and which fields of their configs describe the architecture."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from encoder.models.cogvideox import CogVideoXParams
from encoder.models.wan import WanParams


@dataclass(frozen=True, slots=True)
class Layout:
    """What to expect of the checkpoints of one encoder.

    `config` has the fields of a diffusers config.json with this encoder's values; `names` the patterns, applied in
    order, that turn published names into ours; `first` the published names of one tensor that every checkpoint has,
    which gives the prefix of all others; `foreign` the prefixes of names that do not belong to the encoder.
    """

    diffusers_class: str
    config: Mapping[str, Any]
    names: tuple[tuple[str, str], ...]
    first: tuple[str, ...]
    foreign: tuple[str, ...]

    def ours(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by our names; a name that no pattern matches is kept."""
        tensors = {self._our_name(name): tensor for name, tensor in published.items()}
        for query in [name for name in tensors if ".q." in name]:
            parts = [query.replace(".q.", f".{part}.") for part in "qkv"]
            if tensors.keys() >= set(parts):
                tensors[query.replace(".q.", ".qkv.")] = torch.cat([tensors.pop(part) for part in parts])
        return tensors

    def _our_name(self, name: str) -> str:
        for pattern, replacement in self.names:
            name = re.sub(pattern, replacement, name)
        return name


COGVIDEOX_NAMES = (
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
    # both
    (r"^encoder\.conv_in\.conv\.", "stem.conv."),
    (r"^encoder\.norm_out\.", "head.norm."),
    (r"^encoder\.conv_out\.conv\.", "head.conv."),
    (r"\.conv([12])\.conv\.", r".conv\1."),
    (r"\.(conv|nin)_shortcut\.", ".shortcut."),
    (r"\.proj_out\.", ".project."),
)


def cogvideox_layout(params: CogVideoXParams) -> Layout:
    """The layouts of CogVideoX checkpoints: diffusers' and the original."""
    last = "middle.2." if params.middle_attention else "middle.1."
    return Layout(
        diffusers_class="AutoencoderKLCogVideoX",
        config={
            "in_channels": params.in_channels,
            "latent_channels": params.latent_channels,
            "block_out_channels": list(params.channels),
            "layers_per_block": params.blocks_per_level,
            "norm_num_groups": params.groups,
            "norm_eps": params.eps,
            "temporal_compression_ratio": params.temporal_ratio,
            "act_fn": "silu",
            "use_quant_conv": False,
        },
        names=((r"^encoder\.mid\.block_2\.", last), *COGVIDEOX_NAMES),
        first=("encoder.conv_in.conv.weight",),
        foreign=("decoder.", "post_quant_conv.", "loss."),
    )


WAN_NAMES = (
    # diffusers AutoencoderKLWan
    (r"^encoder\.conv_in\.", "stem.conv."),
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


def wan_layout(params: WanParams) -> Layout:
    """The layouts of Wan 2.1 checkpoints: diffusers' and the original."""
    base = params.channels[0]
    return Layout(
        diffusers_class="AutoencoderKLWan",
        config={
            "base_dim": base,
            "dim_mult": [channels // base for channels in params.channels],
            "num_res_blocks": params.blocks_per_level,
            "attn_scales": [],
            "temperal_downsample": list(params.halves_time),
            "z_dim": params.latent_channels,
            "in_channels": params.in_channels,
            "is_residual": False,
            "patch_size": None,
        },
        names=WAN_NAMES,
        first=("encoder.conv_in.weight", "encoder.conv1.weight"),
        foreign=("decoder.", "post_quant_conv.", "conv2."),
    )
