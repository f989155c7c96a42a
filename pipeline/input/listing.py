"""From the `input.shards` or `input.table` of a configuration to named shards.

Tars are not opened here, so that 100,000 shards cost the driver no round trips. Tables are, as shards are ranges of
their rows.
"""

import hashlib
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from braceexpand import braceexpand

from pipeline.config.input import InputConfig, TableConfig
from pipeline.errors import UserError
from pipeline.input.table_rows import survey
from pipeline.metadata.text import UndecodableError, decode_text
from pipeline.records import ShardRef, TableShard, TarShard
from pipeline.storage.files import glob_urls, read_url
from pipeline.storage.urls import expanded, public_url

TABLES = "input.table.files"
READERS = 16
GLOB_CHARACTERS = re.compile(r"[*?\[]")


def shards_of(rules: InputConfig) -> tuple[ShardRef, ...]:
    """The shards of an input: its tars, or ranges of the rows of its tables.

    Raises:
        UserError: as `list_shards`; or a table cannot be read, lacks a column, or has no rows.
    """
    if rules.table is None:
        return list_shards(rules.shards)
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(partial(_row_shards, rules.table), _named(rules.table.files, TABLES)))
    shards = tuple(shard for of_table in found for shard in of_table)
    if not shards:
        raise UserError(f"{TABLES}: the tables have no rows")
    return shards


def list_shards(patterns: Iterable[str]) -> tuple[TarShard, ...]:
    """The tars of `patterns`: braces, globs and `@file` (one URL a line), in the order given.

    Raises:
        UserError: nothing matches, or a shard is listed twice.
    """
    return tuple(TarShard(name, url) for name, url in _named(patterns, "input.shards"))


def _named(patterns: Iterable[str], key: str) -> list[tuple[str, str]]:
    """(name, URL) of each file that the patterns under the configuration's `key` match. Raises as `list_shards`."""
    urls = [url for pattern in patterns for url in _listed(pattern, key)]
    if not urls:
        raise UserError(f"{key}: the list of files is empty")
    files = [(shard_name(url), url) for url in urls]
    _refuse_duplicates(files, key)
    return files


def _row_shards(rules: TableConfig, table: tuple[str, str]) -> list[TableShard]:
    name, url = table
    where = public_url(url)
    try:
        found = survey(url, rules)
    except FileNotFoundError:
        raise UserError(f"{TABLES}: {where} does not exist") from None
    except (ValueError, IsADirectoryError) as error:
        raise UserError(f"{TABLES}: {where}: {error}") from None
    for key, column in (("video", rules.video), ("key", rules.key)):
        if found.ranges and column is not None and column not in found.columns:
            columns = ", ".join(found.columns) or "none"
            raise UserError(f"input.table.{key}: {where} has no column {column!r}; its columns are {columns}")
    return [
        TableShard(f"{name}-{rows.start:08d}-{rows.stop:08d}", url, rows, rows_bytes)
        for rows, rows_bytes in found.ranges
    ]


def shard_name(url: str) -> str:
    """A readable name, unique to the URL: shards may have the same base name, and a run may be given more shards."""
    public = public_url(url)
    stem = public.rpartition("/")[2].removesuffix(".tar")
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", stem)[:80].strip("-")
    return f"{readable or 'shard'}-{hashlib.sha256(public.encode()).hexdigest()[:8]}"


def _listed(pattern: str, key: str) -> list[str]:
    if not pattern.startswith("@"):
        return _expand(pattern, key)
    return [url for line in _lines(pattern[1:], key) for url in _expand(line, key)]


def _meant(line: str, key: str) -> str:
    try:
        return expanded(line)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _expand(pattern: str, key: str) -> list[str]:
    try:
        patterns = list(braceexpand(_meant(pattern, key)))
    except ValueError as error:
        raise UserError(f"{key}: {pattern!r} has unbalanced braces: {error}") from None
    return [url for one in patterns for url in _globbed(_meant(one, key), key)]


def _lines(path: str, key: str) -> list[str]:
    try:
        text = decode_text(read_url(path))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{key}: the list @{public_url(path)} does not exist") from None
    except UndecodableError as error:
        raise UserError(f"{key}: the list @{public_url(path)} is not UTF-8 text: {error}") from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _globbed(pattern: str, key: str) -> list[str]:
    if not GLOB_CHARACTERS.search(pattern.partition("?")[0] if "://" in pattern else pattern):
        return [pattern]
    found = glob_urls(pattern)
    if not found:
        raise UserError(f"{key}: nothing matches {public_url(pattern)}")
    return found


def _refuse_duplicates(files: Iterable[tuple[str, str]], key: str) -> None:
    seen: set[str] = set()
    for name, url in files:
        if name in seen:
            raise UserError(f"{key} lists {public_url(url)} twice (URLs that differ only in their query are the same)")
        seen.add(name)
