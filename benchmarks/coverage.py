"""Which models' VAEs load, how near to diffusers their latents are, and what memory a clip takes.

`python -m benchmarks.coverage` writes results/coverage.json and the table of docs/models.md. Errors are measured with
few channels and random weights in float32, memory without values for the published architecture: no checkpoint is
needed.
"""

import inspect
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

import encoder
from encoder import diffusers_vae
from encoder.families import Options, family_of
from encoder.streaming.engines import Engine
from encoder.streaming.footprint import encode_bytes

RESULTS = Path(__file__).parent / "results" / "coverage.json"
PAGE = Path(__file__).parent.parent / "docs" / "models.md"
BEGIN, END = "<!-- coverage: begin -->\n", "<!-- coverage: end -->\n"
HEIGHT_PX, WIDTH_PX, FRAMES = 480, 832, (49, 121, 481)
OPTIONS = Options("bfloat16", "cpu", 8, "chunk", "diffusers", None, "direct")
SMALL_WAN = {"base_dim": 8, "num_res_blocks": 1}
SMALL_RESIDUAL = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "z_dim": 12}
RESIDUAL_SPEC = {"scale_factor_spatial": 16, "latents_mean": [0.0] * 12, "latents_std": [1.0] * 12}
SMALL_LTX = {"latent_channels": 8, "decoder_block_out_channels": (8,) * 4, "decoder_layers_per_block": (1,) * 5}
SMALL_LTX2 = SMALL_LTX | {"decoder_block_out_channels": (8, 8, 8), "decoder_layers_per_block": (1,) * 4}
LTX2_RATIOS = {"spatial_compression_ratio": 32, "temporal_compression_ratio": 8}
SMALL_GROUPS = {"layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4}


@dataclass(frozen=True, slots=True)
class Row:
    """One VAE: the models that use it, how it is loaded, diffusers' class with few channels, whose scaling it has."""

    models: str
    name: str
    class_name: str
    small: dict[str, Any]
    scaling: str


ROWS = (
    Row("CogVideoX 2b, 5b, 1.5; CogVideoX-Fun, ConsisID", "cogvideox", "AutoencoderKLCogVideoX",
        {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4},
        "CogVideoXImageToVideoPipeline"),
    Row("Wan 2.1, Wan 2.2 A14B, VACE, SkyReels V2, Cosmos-Predict 2, LongCat", "wan", "AutoencoderKLWan", SMALL_WAN,
        "WanImageToVideoPipeline"),
    Row("Wan 2.2 TI2V-5B, Ovi", "wan2.2", "AutoencoderKLWan",
        SMALL_WAN | SMALL_RESIDUAL | RESIDUAL_SPEC, "WanImageToVideoPipeline"),
    Row("Qwen-Image", "wan", "AutoencoderKLQwenImage", SMALL_WAN, "QwenImageEditPipeline"),
    Row("LTX-2, LTX-2.3", "ltx", "AutoencoderKLLTX2Video",
        SMALL_LTX2 | LTX2_RATIOS | {"block_out_channels": (16, 32, 64, 64), "layers_per_block": (1,) * 5},
        "LTX2Pipeline"),
    Row("LTX-Video 0.9.0, 0.9.1", "ltx", "AutoencoderKLLTXVideo",
        SMALL_LTX | {"block_out_channels": (8, 8, 16, 16), "layers_per_block": (1,) * 5}, "LTX2Pipeline"),
    Row("HunyuanVideo 1.5", "hunyuan1.5", "AutoencoderKLHunyuanVideo15",
        {"block_out_channels": (8, 8, 16, 16, 16), "layers_per_block": 1, "latent_channels": 8},
        "HunyuanVideo15ImageToVideoPipeline"),
    Row("HunyuanVideo, FramePack, Kandinsky 5", "diffusers", "AutoencoderKLHunyuanVideo",
        {"block_out_channels": (8, 8, 8, 8)} | SMALL_GROUPS, "HunyuanVideoImageToVideoPipeline"),
    Row("EasyAnimate 5", "diffusers", "AutoencoderKLMagvit", {"block_out_channels": (8, 8, 16, 16)} | SMALL_GROUPS,
        "none"),
    Row("Kandinsky 6 SR", "diffusers", "Kandinsky6SRVAE",
        {"encoder_block_out_channels": (8, 16, 32, 64, 128), "decoder_block_out_channels": (8, 16, 32, 64, 128),
         "layers_per_block": 1, "latent_channels": 4}, "none"),
    Row("KVAE", "diffusers", "AutoencoderKLKVAEVideo",
        {"ch": 32, "ch_mult": (1, 1, 1, 1), "num_res_blocks": 1, "z_channels": 4}, "none"),
    Row("Mochi 1", "diffusers", "AutoencoderKLMochi",
        {"encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4,
         "layers_per_block": (1,) * 5}, "MochiPipeline's formula"),
    Row("Cosmos-Predict 1", "diffusers", "AutoencoderKLCosmos",
        {"encoder_block_out_channels": (8,) * 4, "decode_block_out_channels": (8,) * 4, "num_layers": 1,
         "latent_channels": 4, "attention_resolutions": ()}, "CosmosVideoToWorldPipeline"),
)  # fmt: skip


def main() -> None:
    results = [measure(row) for row in ROWS]
    RESULTS.write_text(
        json.dumps({"size_px": [HEIGHT_PX, WIDTH_PX], "frames": FRAMES, "rows": results}, indent=1) + "\n"
    )
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(results) + END + rest.partition(END)[2], "utf-8")


def measure(row: Row) -> dict[str, Any]:
    """What is loaded, its largest error over the largest value, and gigabytes by frames."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(1)
        theirs = getattr(diffusers, row.class_name)(**row.small).eval()
        theirs.save_pretrained(folder)
        ours = encoder.load(row.name, weights=folder, convolutions="direct")
        frames = 1 + 6 * ours.spec.temporal_ratio
        clip = torch.rand(1, 3, frames, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with torch.no_grad():
            expected = theirs.encode(clip).latent_dist.mode()
        error = float((ours.encode(clip).mean - expected).abs().max() / expected.abs().max())
    engine = full_size(row)
    line = {
        "models": row.models,
        "vae": row.class_name,
        "encoder": row.name,
        "error": float(f"{error:.1e}"),
        "streams": engine.streams,
        "gigabytes": [round(encode_bytes(engine, 1, n, HEIGHT_PX, WIDTH_PX, torch.bfloat16) / 1e9, 2) for n in FRAMES],
        "scaling": ours.spec.scaling_formula,
        "scaling_checked_against": row.scaling,
    }
    print(json.dumps(line), flush=True)
    return line


def full_size(row: Row) -> Engine:
    """The published architecture on the meta device."""
    with torch.device("meta"):
        if row.name == "diffusers":
            config = {"_class_name": row.class_name}
            model = nn.Module.to(diffusers_vae.build_half(config, diffusers_vae.DECODER), "meta", torch.bfloat16)
            return diffusers_vae.engine_of(model)
        family = family_of(row.name)
        params = family.presets[row.name]
        if row.class_name == "AutoencoderKLLTXVideo":  # the preset is LTX-2
            params = family.checkpoints.params_of_config(defaults_of(row.class_name))
        kind = family.kind(params, OPTIONS)
        return kind.engine(nn.Module.to(kind.build(), "meta", torch.bfloat16).requires_grad_(False))


def defaults_of(class_name: str) -> dict[str, Any]:
    """The config of a class of diffusers, which is that of the first published model."""
    parameters = inspect.signature(getattr(diffusers, class_name).__init__).parameters.values()
    return {"_class_name": class_name} | {one.name: one.default for one in parameters if one.default is not one.empty}


def table(results: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    heads = ["models", "VAE", "`encoder.name`", "error", "streams", *(f"{n} frames" for n in FRAMES), "before training"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for one in results:
        streams = "yes" if one["streams"] else "keys and values are kept" if one["encoder"] == "hunyuan1.5" else "no"
        checked = one["scaling_checked_against"]
        formula = f"`{one['scaling']}`" if one["scaling"] else "not stated"
        cells = [one["models"], f"`{one['vae']}`", f"`{one['encoder']}`", f"{one['error']:.1e}", streams]
        cells += [f"{size:.2f} GB" for size in one["gigabytes"]]
        cells += [formula + ("" if checked == "none" else f" ({checked})")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
