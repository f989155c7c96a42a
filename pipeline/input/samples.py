"""The samples of a shard of either kind: files of a tar (tar.py), or rows of a table (table.py)."""

from collections.abc import Iterator
from dataclasses import replace

from pipeline.config.load import Config
from pipeline.input.grouping import SeenKeys
from pipeline.input.shard_errors import shard_errors
from pipeline.input.table import read_row_samples
from pipeline.input.tar import read_samples
from pipeline.records import FileInfo, Sample, ShardRef, TableShard
from pipeline.storage.files import stat_url


def samples_of(
    shard: ShardRef, config: Config, position: int = 0, first_index: int = 0, seen: SeenKeys | None = None
) -> Iterator[Sample]:
    """Streams the samples of a shard from `position`, where sample number `first_index` begins.

    Args:
        position: 0, or the `next_position` of the sample before.
        seen: the keys of a tar's samples up to there; those that are read are added. A sample whose key came before
            has a problem.

    Raises:
        ShardError: the shard is missing, damaged, cut short, or has changed.
        TransientError: reading it again may succeed.
    """
    if isinstance(shard, TableShard):
        return read_row_samples(shard, config, position)
    samples = read_samples(shard.url, config.input, config.limits.max_video_bytes, position, first_index)
    return _told_apart(samples, SeenKeys() if seen is None else seen)


def _told_apart(samples: Iterator[Sample], seen: SeenKeys) -> Iterator[Sample]:
    for sample in samples:
        seen.add(sample.key, sample.index)
        problem = seen.problem(sample)
        yield replace(sample, problem=problem, video=b"") if problem else sample


def slice_begins(shard: ShardRef, config: Config, seen: SeenKeys | None = None) -> list[int]:
    """The position of each slice. A tar is read to its end to find them; nothing is decoded."""
    part_samples = config.output.part_samples
    if isinstance(shard, TableShard):
        return list(range(0, len(shard.rows), part_samples))
    ends = (sample for sample in samples_of(shard, config, seen=seen) if not sample.last)
    return [0, *(sample.next_position for sample in ends if (sample.index + 1) % part_samples == 0)]


def shard_info(shard: ShardRef) -> FileInfo:
    """Size and version tag of the shard's file. Raises ShardError where it is missing."""
    with shard_errors(shard.url):
        return stat_url(shard.url)
