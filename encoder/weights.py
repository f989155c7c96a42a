"""Weights: read in published layouts, renamed to ours, checked strictly, and identified by a sha256."""

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from encoder.checkpoints.known import LAYOUTS, native_of_config, native_of_tensors
from encoder.checkpoints.layout import Layout, Tensors
from encoder.spec import SHIPPED_WEIGHTS

LOG = logging.getLogger(__name__)

RANDOM = "random:"
SHIPPED = Path(__file__).parent / "shipped"
VIDEO_KERNEL_DIMS = 5  # other encoders of an all-in-one file, such as that of audio, have fewer
VAE_CLASS = "(Autoencoder|VAE)"  # in the names of classes
DIFFUSERS_STEM = "diffusion_pytorch_model"
DIFFUSERS_FILE = f"{DIFFUSERS_STEM}.safetensors"
PICKLES = (".pt", ".pth", ".ckpt", ".bin")
WRAPPERS = ("state_dict", "module", "model")  # keys under which training code puts the tensors
SCALING_FIELDS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "invert_scale_latents")


class WeightsError(ValueError):
    """The weights are missing, damaged, or not those of the named encoder."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A diffusers config (empty if there is none), tensors by our names, and the scaling that either of them states.

    `scaling` has fields of LatentSpec.
    """

    source: Path
    config: dict[str, Any]
    tensors: Tensors
    scaling: dict[str, Any]


def read_checkpoint(source: str, name: str) -> Checkpoint:
    """Reads a diffusers VAE folder, a safetensors file or a file of pickled tensors for the native encoder `name`.

    Raises:
        WeightsError: the source is missing or unreadable, or contains another model.
    """
    path, layout = found_path(source), LAYOUTS[name]
    config = read_config(path)
    if config and not _fits(config, name):
        raise WeightsError(_other_model(path, config.get("_class_name"), native_of_config(config), name))
    published = read_published(path)
    if not config and (native := native_of_tensors(published)) is not None and LAYOUTS[native] is not layout:
        raise WeightsError(_other_model(path, None, native, name))
    own, of_scaling = own_tensors(published, layout, path)
    scaling = {key: _frozen(config[key]) for key in SCALING_FIELDS if config.get(key) is not None}
    return Checkpoint(path, config, own, scaling | of_scaling)


def _fits(config: Mapping[str, Any], name: str) -> bool:
    native = native_of_config(config)
    return native is not None and LAYOUTS[native] is LAYOUTS[name]


def _other_model(path: Path, class_name: str | None, native: str | None, name: str) -> str:
    what = f"the weights of {native!r}" if class_name is None else f"a {class_name}"
    use = f"encoder.name: {native}" if native else "encoder.name: diffusers, if diffusers has this VAE"
    return f"{path} contains {what}, not those of encoder {name!r}: use {use}"


def found_path(source: str) -> Path:
    """The file or folder of tensors that a user means: `source`, or its subfolder vae, which is then said.

    Names of weights that come with this package go before files of the same name.

    Raises:
        WeightsError: there is none, with what to give instead.
    """
    path = SHIPPED / source if source in SHIPPED_WEIGHTS else Path(source)
    if not path.exists():
        hub = f" (from the Hugging Face hub: hf://{source}/vae)" if re.fullmatch(r"[\w-]+/[\w.-]+", source) else ""
        raise WeightsError(
            f"no weights at {source}: give a diffusers VAE folder, a file of tensors, "
            f"{', '.join(SHIPPED_WEIGHTS)} or random:SEED{hub}"
        )
    if path.is_dir() and not _is_vae(path) and _is_vae(path / "vae"):
        LOG.warning("%s is the folder of a pipeline: its VAE is read from the subfolder vae", path)
        return path / "vae"
    return path


def _is_vae(path: Path) -> bool:
    config = path / "config.json"
    pattern = rf'"_class_name": *"\w*{VAE_CLASS}'
    return config.is_file() and re.search(pattern, config.read_text("utf-8", errors="replace")) is not None


def random_weights(module: nn.Module, source: str) -> Tensors:
    """Weights for every parameter of `module` from `random:SEED`, the same on every machine.

    Convolutions are uniform in +-1/sqrt(inputs of one output), as torch initialises them; norms are 1 and 0.
    """
    seed = source.removeprefix(RANDOM)
    if not re.fullmatch(r"\d{1,18}", seed):
        raise WeightsError(f"weights are {source!r}, but a seed is a whole number: write random:0, for example")
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
    """The config.json of a diffusers VAE folder, or of the one that a file lies in; empty for other files."""
    if path.is_file():
        return read_config(path.parent) if path.name.startswith(DIFFUSERS_STEM) and _is_vae(path.parent) else {}
    config_path = path / "config.json"
    if not config_path.is_file():
        raise WeightsError(f"{path} contains no config.json: give a diffusers VAE folder{_files_beside(path)}")
    try:
        config = json.loads(config_path.read_text("utf-8"))
    except ValueError as error:
        raise WeightsError(f"{config_path} is not JSON: {error}") from None
    if not isinstance(config, dict) or "_class_name" not in config:
        raise WeightsError(
            f"{config_path} has no _class_name: it is not the config of a diffusers VAE{_files_beside(path)}"
        )
    if not re.search(VAE_CLASS, str(config["_class_name"])):
        raise WeightsError(
            f"{path} is the release of a {config['_class_name']}: give its VAE alone{_files_beside(path)}"
        )
    return config


def _files_beside(path: Path) -> str:
    """What may be given instead of a folder: its files of tensors that are called a VAE."""
    suffixes = (".safetensors", *PICKLES)
    files = sorted(file for file in path.iterdir() if file.suffix in suffixes and "vae" in file.name.lower())
    return f", or a file of tensors: {' or '.join(map(str, files))}" if files else " or a file of tensors"


def read_published(path: Path) -> Tensors:
    """All tensors of a file or folder, by the names that they have there."""
    published: Tensors = {}
    for file in _files(path):
        published |= _read_pickle(file) if file.suffix in PICKLES else _read_safetensors(file)
    return {name: _computable(tensor) for name, tensor in published.items()}


def _computable(tensor: Tensor) -> Tensor:
    """8-bit floats as float32: torch computes nothing with them, not even whether they are finite."""
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize == 1 else tensor


def own_tensors(published: Tensors, layout: Layout, path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The encoder's tensors by our names, without those of a decoder, a loss or another model; then the scaling."""
    prefixes = {
        name.removesuffix(first)
        for name, tensor in published.items()
        for first in layout.first
        if (name == first or name.endswith(f".{first}")) and tensor.ndim == VIDEO_KERNEL_DIMS
    }
    if len(prefixes) > 1:
        raise WeightsError(f"{path} has several encoders, under {', '.join(sorted(prefixes))}: give a file with one")
    prefix = prefixes.pop() if prefixes else ""
    own = {name.removeprefix(prefix): tensor for name, tensor in published.items() if name.startswith(prefix)}
    fields = layout.scaling or {}
    scaling = {fields[name]: tuple(own[name].float().tolist()) for name in own.keys() & fields.keys()}
    kept = {name: own[name] for name in own.keys() - fields.keys() if not name.startswith(layout.foreign)}
    return layout.ours(kept), scaling


def _read_safetensors(file: Path) -> Tensors:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} cannot be read as safetensors: {error}") from None


def _read_pickle(file: Path) -> Tensors:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise WeightsError(f"{file} contains more than tensors, which could run code: it was not read") from None
    except (RuntimeError, EOFError, OSError) as error:
        raise WeightsError(f"{file} cannot be read by torch.load: {_first_line(error)}") from None
    while isinstance(content, dict) and (wrapper := next((key for key in WRAPPERS if key in content), None)):
        content = content[wrapper]
    if not isinstance(content, dict):
        raise WeightsError(f"{file} contains a {type(content).__name__}, not tensors by name")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def assign(module: nn.Module, tensors: Tensors, source: str) -> str:
    """Makes `tensors` the parameters of `module` (built on the meta device) and returns their sha256.

    Raises:
        WeightsError: naming the tensors that are missing, extra, of another shape or type, or not finite.
    """
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    common = shapes.keys() & tensors.keys()
    misshapen = [name for name in common if not _same_but_for_ones(tensors[name].shape, shapes[name])]
    problems = {
        "missing": shapes.keys() - common,
        "not part of this encoder": tensors.keys() - common,
        "of another shape": [f"{name} {tuple(tensors[name].shape)} for {tuple(shapes[name])}" for name in misshapen],
        "not floating point": [name for name in common if not tensors[name].is_floating_point()],
        "with values that are not finite": [name for name in common if not _is_finite(tensors[name])],
    }
    found = [f"{what}: {_some(sorted(which))}" for what, which in problems.items() if which]
    if found:
        raise WeightsError(f"{source} does not fit this encoder; {'; '.join(found)}")
    fitted = {name: tensors[name].reshape(shape) for name, shape in shapes.items()}
    module.load_state_dict(fitted, strict=True, assign=True)
    return sha256_of(fitted)


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """The identity of weights: sha256 over our names, shapes and float32 values, whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().float().contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """The files of a folder that hold its tensors: one, several shards, or the only variant, such as fp16."""
    if path.is_file():
        if path.suffix not in (".safetensors", *PICKLES):
            raise WeightsError(f"{path} is not a file of tensors: give .safetensors, {', '.join(PICKLES)}, or a folder")
        return [path]
    whole, index = path / DIFFUSERS_FILE, path / f"{DIFFUSERS_FILE}.index.json"
    if index.is_file():
        files = sorted({path / file for file in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    else:
        variants = sorted(path.glob(DIFFUSERS_FILE.replace(".", ".*.")))
        pickles = [path / f"{DIFFUSERS_STEM}{suffix}" for suffix in PICKLES]
        others = variants or [file for file in pickles if file.is_file()]
        files = others if len(others) == 1 and not whole.is_file() else [whole]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise WeightsError(f"{path} is missing {', '.join(absent)}")
    return files


def _same_but_for_ones(given: torch.Size, expected: torch.Size) -> bool:
    """Whether the shapes differ at most in ones at the end: a 1x1 kernel is a matrix."""
    shortest = min(len(given), len(expected))
    return given[:shortest] == expected[:shortest] and {*given[shortest:], *expected[shortest:]} <= {1}


def _is_finite(values: Tensor) -> bool:
    """Whether none is infinite or NaN, which minimum and maximum would show: a tenth of the time of a look at each."""
    if not (values.is_floating_point() and values.numel()):
        return True
    return all(bool(extreme.isfinite()) for extreme in values.aminmax())


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _some(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
