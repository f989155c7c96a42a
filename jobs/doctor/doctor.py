"""The command `doctor`: whether this machine can do what a configuration asks."""

import argparse

from jobs.arguments import Subparsers, add_command, add_config, read_config
from jobs.console import say


def add(subparsers: Subparsers) -> None:
    """Adds `doctor`."""
    text = "check this machine's GPU, driver and libraries, and say what to install"
    add_config(add_command(subparsers, "doctor", doctor, text), required=False)


def doctor(chosen: argparse.Namespace) -> int:
    """Prints what was found; 1 if there is a problem."""
    from pipeline.estimate.gpu_check import check_gpu, in_words  # lazily: it imports torch

    check = check_gpu(read_config(chosen) if chosen.config else None)
    for line in in_words(check):
        say(line)
    return 1 if check.problems else 0
