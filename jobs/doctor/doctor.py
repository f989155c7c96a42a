"""The command `doctor`: whether this machine, and the cluster of a configuration, can do what is asked of them."""

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from jobs.arguments import Subparsers, add_command, add_config, read_config
from jobs.console import say

if TYPE_CHECKING:
    from pipeline.doctor.findings import Finding

NAMED_NODES = 4  # of those that have the same finding; the others are counted


def add(subparsers: Subparsers) -> None:
    """Adds `doctor`."""
    text = "check this machine, or every node of a configuration's cluster, and say what to do"
    add_config(add_command(subparsers, "doctor", doctor, text), required=False)


def doctor(chosen: argparse.Namespace) -> int:
    """Prints what was found; 1 where a run would fail."""
    try:
        from pipeline.doctor.cluster import HERE, diagnose  # lazily: it imports torch, Ray and the decoders
        from pipeline.doctor.machine import look_at_machine
    except (ImportError, OSError) as error:
        say(f"bad   libraries: {error}\n      -> pip install -c constraints.txt latentmill")
        return 1
    if chosen.config:
        found = list(diagnose(read_config(chosen)))
    else:
        found = [(HERE, finding) for finding in look_at_machine(None, {})]
    for line in in_words(found):
        say(line)
    return 1 if any(finding.level == "bad" for _, finding in found) else 0


def in_words(found: Iterable[tuple[str, "Finding"]]) -> Iterator[str]:
    """A line for each finding with the nodes that have it, below it what to do, and how many there are."""
    nodes: dict[Finding, list[str]] = {}
    for node, finding in found:
        nodes.setdefault(finding, []).append(node)
    for finding, where in nodes.items():
        yield f"{finding.level:4}  {finding.subject}: {finding.found}{_at(where)}"
        if finding.advice:
            yield f"      -> {finding.advice}"
    counts = {level: sum(finding.level == level for finding in nodes) for level in ("bad", "warn")}
    verdict = "a run would fail" if counts["bad"] else "nothing stands against a run"
    yield f"{verdict}: {counts['bad']} bad, {counts['warn']} to be warned of"


def _at(nodes: list[str]) -> str:
    from pipeline.doctor.cluster import HERE

    if nodes == [HERE]:
        return ""
    named = ", ".join(nodes[:NAMED_NODES])
    more = f" and {len(nodes) - NAMED_NODES} more" if len(nodes) > NAMED_NODES else ""
    return f" [{named}{more}]"
