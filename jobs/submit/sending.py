"""Runs the commands that the targets compute. Nothing is decided here."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence

from pipeline.errors import UserError

ANSWER_SECONDS = 120  # no question that is asked of a cluster takes so long


def send(command: Sequence[str], dry_run: bool = False, content: str = "", env: Mapping[str, str] | None = None) -> int:
    """Runs a command with `content` as its standard input and returns its exit code; a dry run prints instead."""
    if dry_run:
        print(content or shlex.join(command))
        return 0
    try:
        return subprocess.run(command, input=content or None, text=True, env=env, check=False).returncode
    except FileNotFoundError:
        raise _missing(command[0]) from None


def ask(command: Sequence[str], content: str = "", env: Mapping[str, str] | None = None) -> str:
    """What a command prints.

    Raises:
        UserError: it failed; with the last line of what it said.
    """
    answer = answer_of(command, content, env)
    if answer.returncode:
        said = (answer.stderr or answer.stdout).strip().splitlines()
        raise UserError(f"{command[0]}: {said[-1] if said else f'exit code {answer.returncode}'}")
    return answer.stdout


def answer_of(
    command: Sequence[str], content: str = "", env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """What a command prints and its exit code, whatever that is."""
    try:
        return subprocess.run(
            command, input=content, capture_output=True, text=True, env=env, timeout=ANSWER_SECONDS, check=False
        )
    except FileNotFoundError:
        raise _missing(command[0]) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not answer within {ANSWER_SECONDS} s: {shlex.join(command)}") from None


def _missing(program: str) -> UserError:
    return UserError(f"{program} is not installed here: submit from a machine that has it, or use --dry-run")
