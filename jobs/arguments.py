"""Arguments that several commands share: how a command is added, a configuration with overrides, positive numbers."""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeAlias

import encoder
from jobs.examples import EXAMPLES
from pipeline.config.load import Config, load_config
from pipeline.errors import UserError
from pipeline.storage.urls import expanded

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Command = Callable[[argparse.Namespace], int]
OVERRIDE = re.compile(r"\w+(\.\w+)*=")


def add_command(subparsers: Subparsers, name: str, command: Command, text: str) -> argparse.ArgumentParser:
    """The parser of a new command, whose `command` does the work and returns the exit code."""
    parser = subparsers.add_parser(name, help=text, description=text)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"example:\n  {EXAMPLES[parser.prog.partition(' ')[2]]}"
    parser.set_defaults(command=command)
    return parser


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds the configuration and its overrides, which `config_file` and `read_config` take apart again."""
    parser.add_argument(
        "config", nargs=None if required else "?", help="a YAML file, such as configs/cogvideox-2b.yaml"
    )
    add_overrides(parser, "such as clip.fps=16; they may stand anywhere")
    parser.epilog = f"encoder.name is one of: {', '.join(encoder.names())}\n\n{parser.epilog}"


def add_overrides(parser: argparse.ArgumentParser, text: str) -> None:
    """Adds the overrides of a configuration."""
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help=text)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses a command line in which overrides may also stand behind options.

    `argparse.parse_intermixed_args` does the same for parsers without sub-commands only.
    """
    chosen, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(chosen, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        chosen.overrides = [*chosen.overrides, *rest]
    return chosen


def config_file(chosen: argparse.Namespace) -> tuple[str, list[str]]:
    """The configuration's file and its overrides, in whatever order they were given."""
    words = [word for word in (chosen.config, *chosen.overrides) if word is not None]
    file = next((word for word in words if not OVERRIDE.match(word)), None)
    if file is None:
        raise UserError("name a configuration, such as configs/cogvideox-2b.yaml")
    words.remove(file)
    return file, words


def read_config(chosen: argparse.Namespace) -> Config:
    """The configuration that the command line names."""
    return load_config(*config_file(chosen))


class _Renamed(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error(f"{self.option_strings[0]} is now called {self.const}")


def renamed(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Refuses an option's former name with its new one."""
    parser.add_argument(old, action=_Renamed, const=new, nargs="*", help=argparse.SUPPRESS)


def path_text(text: str) -> str:
    """A path or URL, in which ~ and ${VAR} are replaced as in those of a configuration."""
    try:
        return expanded(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number
