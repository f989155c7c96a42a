"""The table of configuration keys has the keys and defaults of the models, no more and no fewer."""

import re
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from support.paths import ROOT

from pipeline.config.load import Config

REQUIRED = "required"


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The model behind a field that holds a section, also one that may be null; None for a plain value."""
    choices = [one for one in (field.annotation, *get_args(field.annotation)) if isinstance(one, type)]
    models = [one for one in choices if issubclass(one, BaseModel)]
    return models[0] if models and set(choices) <= {models[0], type(None)} else None


def keys_of(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every key by its dotted path, with its default as YAML would give it."""
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        section = _section(field)
        keys |= keys_of(section, f"{prefix}{name}.") if section else {f"{prefix}{name}": _default(field)}
    return keys


def _default(field: FieldInfo) -> Any:
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else value


def documented() -> dict[str, Any]:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.+?) \| .+ \|$", text, re.MULTILINE)
    assert len(rows) == len({key for key, _ in rows}), "a key stands twice"
    return {key: default if default == REQUIRED else yaml.safe_load(default.strip("`")) for key, default in rows}


def test_the_table_of_keys_has_every_key_and_its_default() -> None:
    assert documented() == keys_of(Config)
