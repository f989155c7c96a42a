"""YAML and dotted overrides to a tree of plain values.

It does not know which keys there are: config.py does.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Plain values only; a key that stands twice is refused, where PyYAML drops the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twins = [key for position, key in enumerate(keys) if key in keys[:position]]
        if twins:
            raise yaml.constructor.ConstructorError(None, None, f"{twins[0]} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(text: str | bytes, source: str) -> Any:
    """The value of a YAML text; ConfigError where it is none."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2024-13-45 looks like a date
        raise ConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from None


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns a copy of `tree` with each `a.b=value` set; values are read as YAML."""
    result: dict[str, Any] = copy.deepcopy(dict(tree))
    for override in overrides:
        dotted, equals, text = override.partition("=")
        *parents, key = dotted.split(".")
        if not equals or not all((*parents, key)):
            raise ConfigError(f"{override!r} is no override: write section.key=value, as in clip.fps=16")
        node = result
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"{override!r}: {parent} is a value, it has no keys below it")
            node = child
        node[key] = text if text.startswith("@") else read_yaml(text, override)  # @file is no YAML
    return result
