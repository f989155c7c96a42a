"""Small encoders."""

from pathlib import Path
from typing import Any

import diffusers
import torch

ENCODERS: list[tuple[str, dict[str, Any]]] = [
    ("tiny", {"norm_scope": "frame"}),
    ("tiny", {"norm_scope": "chunk"}),
    ("tiny", {"norm_scope": "chunk", "chunk_frames": 4}),
    ("tiny", {"norm_scope": "chunk", "chunk_plan": "even"}),
    ("tiny", {"norm_scope": "frame", "tiles": (16, 16, 8, 8)}),
    ("wan", {}),
]
TINY: dict[str, dict[str, Any]] = {
    "AutoencoderKLCogVideoX": {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4},
    "AutoencoderKLWan": {"base_dim": 4, "num_res_blocks": 1},
    "AutoencoderKLHunyuanVideo": {
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
    },
    "AutoencoderKLLTXVideo": {
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "latent_channels": 8,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32, 32, 32, 32),
        "decoder_block_out_channels": (32, 32, 32, 32),
        "layers_per_block": (1, 1, 1, 1, 1),
    },
    "AutoencoderKLCosmos": {
        "encoder_block_out_channels": (8, 8, 8, 8),
        "decode_block_out_channels": (8, 8, 8, 8),
        "num_layers": 1,
        "latent_channels": 4,
        "attention_resolutions": (),
    },
    "AutoencoderKLHunyuanVideo15": {
        "block_out_channels": (8, 8, 16, 16, 16),
        "layers_per_block": 1,
        "latent_channels": 8,
    },
    "AutoencoderKLLTX2Video": {
        "block_out_channels": (8, 16, 32, 32),
        "decoder_block_out_channels": (8, 16, 32),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1),
        "latent_channels": 8,
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
    },
    "AutoencoderKLMagvit": {
        "block_out_channels": (8, 8, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
    },
}


def save(class_name: str, folder: Path) -> Any:
    torch.manual_seed(1)
    vae = getattr(diffusers, class_name)(**TINY[class_name]).eval()
    vae.save_pretrained(folder)
    return vae
