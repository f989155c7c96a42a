"""Published layouts: how checkpoints name the tensors and say the architecture that we know by our names.

It does not read files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from encoder.cogvideox import CogVideoXParams


@dataclass(frozen=True, slots=True)
class Layout:
    """What to expect of checkpoints of one encoder.

    `config` are fields of a diffusers config.json with the values that this encoder has; `names` patterns of
    published names with ours, applied one after the other; `first` the published names of one tensor that every
    checkpoint has, which tells the prefix of all others; `foreign` beginnings of names that are not the encoder's.
    """

    diffusers_class: str
    config: Mapping[str, Any]
    names: tuple[tuple[str, str], ...]
    first: tuple[str, ...]
    foreign: tuple[str, ...]

    def our_name(self, published: str) -> str:
        """Our name of a tensor; what no pattern knows comes back as it is."""
        for pattern, replacement in self.names:
            published = re.sub(pattern, replacement, published)
        return published


COGVIDEOX_NAMES = (
    # diffusers AutoencoderKLCogVideoX
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"levels.\1.blocks.\2."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r"levels.\1.down."),
    (r"^encoder\.mid_block\.resnets\.(\d+)\.", r"middle.\1."),
    # SAT, as CogVideoX was published first; its middle is block_1, attn_1, block_2
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"levels.\1.blocks.\2."),
    (r"^encoder\.down\.(\d+)\.attn\.(\d+)\.", r"levels.\1.attentions.\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.conv\.", r"levels.\1.down."),
    (r"^encoder\.mid\.block_1\.", "middle.0."),
    (r"^encoder\.mid\.attn_1\.", "middle.1."),
    # both
    (r"^encoder\.conv_in\.conv\.", "stem.conv."),
    (r"^encoder\.norm_out\.", "head.norm."),
    (r"^encoder\.conv_out\.conv\.", "head.conv."),
    (r"\.conv([12])\.conv\.", r".conv\1."),
    (r"\.(conv|nin)_shortcut\.", ".shortcut."),
    (r"\.q\.", ".query."),
    (r"\.k\.", ".key."),
    (r"\.v\.", ".value."),
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
