"""Weights: published layouts to our names, checked strictly, with the sha256 that identifies them.

It does not compute with them: it gives a module whose parameters are all set, or an error that names what is wrong.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from encoder.cogvideox import CogVideoXParams

Tensors = dict[str, Tensor]

DIFFUSERS_CLASS = "AutoencoderKLCogVideoX"
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
DIFFUSERS_NAMES = (
    (r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"levels.\1.blocks.\2."),
    (r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r"levels.\1.down."),
    (r"encoder\.mid_block\.resnets\.(\d+)\.", r"middle.\1."),
    (r"encoder\.conv_in\.conv\.", "stem.conv."),
    (r"encoder\.norm_out\.", "head.norm."),
    (r"encoder\.conv_out\.conv\.", "head.conv."),
    (r"\.conv([12])\.conv\.", r".conv\1."),
    (r"\.conv_shortcut\.", ".shortcut."),
)
SCALING_FIELDS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
NOT_ENCODER = ("decoder.", "post_quant_conv.")


class WeightsError(ValueError):
    """The weights are not there, not whole, or not those of the encoder that was named."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by our names, and the scaling values that the checkpoint's config gives (fields of LatentSpec)."""

    tensors: Tensors
    scaling: dict[str, Any] = field(default_factory=dict)


def read_weights(source: str, module: nn.Module, name: str, params: CogVideoXParams) -> Checkpoint:
    """Reads `random:SEED`, a diffusers VAE folder or a safetensors file for the encoder `name`.

    Raises:
        WeightsError: nothing is there, it cannot be read, or its config describes another architecture.
    """
    if source.startswith("random:"):
        return Checkpoint(random_weights(module, source))
    path = Path(source)
    if not path.exists():
        raise WeightsError(f"no weights at {source}: give random:SEED, a diffusers VAE folder or a .safetensors file")
    config = read_config(path)
    check_config(config, name, params)
    scaling = {key: config[key] for key in SCALING_FIELDS if config.get(key) is not None}
    return Checkpoint(read_tensors(path), {key: _frozen(value) for key, value in scaling.items()})


def random_weights(module: nn.Module, source: str) -> Tensors:
    """Weights for every parameter of `module` from `random:SEED`: the same for a seed on every machine.

    Convolutions are uniform in +-1/sqrt(inputs of one output), as torch begins them; norms are 1 and 0.
    """
    seed = source.removeprefix("random:")
    if not re.fullmatch(r"\d{1,18}", seed):
        raise WeightsError(f"{source!r} is no seed: write random: and a whole number, as in random:0")
    generator = torch.Generator().manual_seed(int(seed))
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    tensors = {}
    for name, shape in shapes.items():
        inputs_shape = shapes[re.sub(r"bias$", "weight", name)]
        bound = 1 / math.sqrt(math.prod(inputs_shape[1:]))
        if len(inputs_shape) > 1:
            tensors[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        else:
            tensors[name] = torch.full(shape, float(name.endswith("weight")))
    return tensors


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a diffusers VAE folder; empty for a single file, which has none."""
    if path.is_file():
        return {}
    config_path = path / "config.json"
    if not config_path.is_file():
        raise WeightsError(f"{path} holds no config.json: give a diffusers VAE folder or a .safetensors file")
    try:
        config = json.loads(config_path.read_text("utf-8"))
    except ValueError as error:
        raise WeightsError(f"{config_path} is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("_class_name") != DIFFUSERS_CLASS:
        came = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
        raise WeightsError(f"{config_path} describes {came}, but this encoder reads {DIFFUSERS_CLASS}")
    return config


def check_config(config: Mapping[str, Any], name: str, params: CogVideoXParams) -> None:
    """Raises WeightsError naming each field of a diffusers config that says another architecture than `params`."""
    expected = {
        "in_channels": params.in_channels,
        "latent_channels": params.latent_channels,
        "block_out_channels": list(params.channels),
        "layers_per_block": params.blocks_per_level,
        "norm_num_groups": params.groups,
        "norm_eps": params.eps,
        "temporal_compression_ratio": params.temporal_ratio,
        "act_fn": "silu",
        "use_quant_conv": False,
    }
    differing = [
        f"{key} is {config[key]}, not {value}" for key, value in expected.items() if config.get(key, value) != value
    ]
    if differing:
        raise WeightsError(f"the checkpoint's config is not encoder {name!r}: {'; '.join(differing)}")


def read_tensors(path: Path) -> Tensors:
    """Encoder tensors by our names from a diffusers folder (sharded or not) or one safetensors file."""
    tensors: Tensors = {}
    for file in _files(path):
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file} cannot be read as safetensors: {error}") from None
    return {our_name(name): tensor for name, tensor in tensors.items() if not name.startswith(NOT_ENCODER)}


def our_name(diffusers_name: str) -> str:
    """Our name of a tensor of diffusers' AutoencoderKLCogVideoX; what it does not know comes back as it is."""
    name = diffusers_name
    for pattern, replacement in DIFFUSERS_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def assign(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> str:
    """Makes `tensors` the parameters of `module` (built on the meta device) and returns their sha256.

    Raises:
        WeightsError: naming what is missing, extra, of another shape, or not finite numbers.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    problems = [
        ("missing", sorted(shapes.keys() - tensors.keys())),
        ("not part of this encoder", sorted(tensors.keys() - shapes.keys())),
        (
            "of another shape",
            [
                f"{name} {tuple(tensors[name].shape)} for {shape}"
                for name, shape in shapes.items()
                if name in tensors and tuple(tensors[name].shape) != shape
            ],
        ),
        ("not floating point", [name for name, tensor in tensors.items() if not tensor.is_floating_point()]),
    ]
    found = [f"{what}: {_some(which)}" for what, which in problems if which]
    if found:
        raise WeightsError(f"{source} does not fit this encoder; {'; '.join(found)}")
    module.load_state_dict(dict(tensors), strict=True, assign=True)
    return sha256_of(tensors)


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """The identity of weights: sha256 over our names, shapes and float32 values, whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().float().contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix != ".safetensors":
            raise WeightsError(f"{path} is no .safetensors file: give one, a diffusers VAE folder, or random:SEED")
        return [path]
    index = path / f"{DIFFUSERS_FILE}.index.json"
    if index.is_file():
        files = sorted({path / file for file in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    else:
        files = [path / DIFFUSERS_FILE]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise WeightsError(f"{path} lacks {', '.join(absent)}")
    return files


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _some(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
