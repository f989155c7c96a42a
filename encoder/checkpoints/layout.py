"""How the checkpoints of one family name their tensors, and what reads an architecture off a config or off shapes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Config = Mapping[str, Any]  # a diffusers config.json
Shapes = Mapping[str, tuple[int, ...]]  # of tensors, by our names
Tensors = dict[str, Tensor]


class UnsupportedError(ValueError):
    """A config describes an architecture that this encoder does not compute."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What to expect of the checkpoints of one family.

    `classes` are those of diffusers; `names` the patterns, applied in order, that turn published names into ours;
    `first` the published names of one tensor that every checkpoint has, which gives the prefix of all others; `marks`
    patterns of published names, of which this family alone has all of one tuple; `foreign` the prefixes of names that
    do not belong to the encoder. `finish` changes the tensors after their names; `scaling` are the names of tensors,
    after the prefix, that hold mean and standard deviation of the latents.
    """

    classes: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    first: tuple[str, ...]
    marks: tuple[tuple[str, ...], ...]
    foreign: tuple[str, ...]
    finish: Callable[[Tensors], Tensors] = lambda tensors: tensors
    scaling: Mapping[str, str] | None = None  # field of the spec by published name

    def ours(self, published: Mapping[str, Tensor]) -> Tensors:
        """Tensors by our names; a name that no pattern matches is kept."""
        return self.finish({self._our_name(name): tensor for name, tensor in published.items()})

    def _our_name(self, name: str) -> str:
        for pattern, replacement in self.names:
            name = re.sub(pattern, replacement, name)
        return name

    def recognises(self, published: str) -> bool:
        """Whether the published names, one a line, are those of this family, under any prefix."""
        return any(all(re.search(rf"(^|\.){mark}$", published, re.MULTILINE) for mark in marks) for marks in self.marks)


def fused_attention(tensors: Tensors) -> Tensors:
    """With queries, keys and values of attention in one tensor."""
    fused = dict(tensors)
    for query in [name for name in tensors if ".q." in name]:
        parts = [query.replace(".q.", f".{part}.") for part in "qkv"]
        if fused.keys() >= set(parts):
            fused[query.replace(".q.", ".qkv.")] = torch.cat([fused.pop(part) for part in parts])
    return fused


def require(config: Config, **supported: Any) -> None:
    """Raises UnsupportedError for every field of a config that is there and has another value."""
    wrong = [
        f"{key} is {config[key]}, and only {value} is supported"
        for key, value in supported.items()
        if config.get(key, value) != value
    ]
    if wrong:
        raise UnsupportedError("; ".join(wrong))


def count(shapes: Shapes, pattern: str) -> int:
    """How many numbers, from 0 on, stand in the group of a pattern that names begin with."""
    found = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    return len(found)
