"""Options that every target takes, and how options are checked: as the sections of a configuration are."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.config.section import Section
from pipeline.errors import UserError


class Options(Section):
    """`stop` and `status` name a job that was submitted before, and nothing is submitted then. `text` names embeddings
    that are made instead of latents.
    """

    detach: bool = False
    stop: str = ""
    status: str = ""
    text: str = ""


Target = TypeVar("Target", bound=Options)


def parse_options(kind: type[Target], given: Mapping[str, Any]) -> Target:
    """The options of a target. Raises one UserError that names every option that cannot work."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise UserError("; ".join(_explain(problem) for problem in error.errors())) from None


def option_name(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _explain(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    message = message if problem["type"] == "value_error" else message[:1].lower() + message[1:]
    came = f" {problem['input']}" if isinstance(problem["input"], str) else ""
    return f"{option_name(str(problem['loc'][0]))}{came}: {message}"
