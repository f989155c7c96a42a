"""From the `input.shards` of a configuration to named shards.

It does not open a shard: a worker does when its turn comes, so that 100,000 shards cost the driver no round trips.
"""

import hashlib
import re
from collections.abc import Iterable

from braceexpand import braceexpand

from pipeline.errors import UserError
from pipeline.records import ShardRef
from pipeline.store import glob_urls, public_url, read_url

GLOB_CHARACTERS = re.compile(r"[*?\[]")


def list_shards(patterns: Iterable[str]) -> tuple[ShardRef, ...]:
    """Expands braces, globs and `@file` (one URL a line), in the order given.

    Raises:
        UserError: nothing matches, or one shard is named twice.
    """
    urls = [url for pattern in patterns for url in _listed(pattern)]
    if not urls:
        raise UserError("input.shards: no shard is named")
    shards = tuple(ShardRef(shard_name(url), url) for url in urls)
    _refuse_twins(shards)
    return shards


def shard_name(url: str) -> str:
    """A readable name, unique by the URL: two inputs may share a base name, and a run may be given more of them."""
    public = public_url(url)
    stem = public.rpartition("/")[2].removesuffix(".tar")
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", stem)[:80].strip("-")
    return f"{readable or 'shard'}-{hashlib.sha256(public.encode()).hexdigest()[:8]}"


def _listed(pattern: str) -> list[str]:
    if not pattern.startswith("@"):
        return _expand(pattern)
    return [url for line in _lines(pattern[1:]) for url in _expand(line)]


def _expand(pattern: str) -> list[str]:
    try:
        expanded = list(braceexpand(pattern))
    except ValueError as error:
        raise UserError(f"input.shards: {pattern!r} has unbalanced braces: {error}") from None
    return [url for one in expanded for url in _globbed(one)]


def _lines(path: str) -> list[str]:
    try:
        text = read_url(path).decode("utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"input.shards: the list @{public_url(path)} does not exist") from None
    except UnicodeDecodeError:
        raise UserError(f"input.shards: the list @{public_url(path)} is no text in UTF-8") from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _globbed(pattern: str) -> list[str]:
    if not GLOB_CHARACTERS.search(pattern.partition("?")[0] if "://" in pattern else pattern):
        return [pattern]
    found = glob_urls(pattern)
    if not found:
        raise UserError(f"input.shards: nothing matches {public_url(pattern)}")
    return found


def _refuse_twins(shards: tuple[ShardRef, ...]) -> None:
    seen: dict[str, str] = {}
    for shard in shards:
        if shard.name in seen:
            raise UserError(
                f"input.shards names {public_url(shard.url)} twice (URLs that differ only in their query count as one)"
            )
        seen[shard.name] = shard.url
