"""The samples of a shard, whichever kind it is: the members of a tar, or rows of a table.

It does not read either: shards.py and table_samples.py do.
"""

from collections.abc import Iterator

from pipeline.config.load import Config
from pipeline.errors import ShardError
from pipeline.input.table import read_row_samples
from pipeline.input.tar import read_samples
from pipeline.records import FileInfo, Sample, ShardRef, TableShard
from pipeline.storage.store import public_url, stat_url


def samples_of(shard: ShardRef, config: Config, position: int = 0, first_index: int = 0) -> Iterator[Sample]:
    """Streams the samples of a shard from `position`, where sample number `first_index` begins.

    Args:
        position: 0, or the `next_position` of the sample before.

    Raises:
        ShardError: the shard is missing, damaged, cut short, or has changed.
        TransientError: the same may pass when it is tried again.
    """
    if isinstance(shard, TableShard):
        return read_row_samples(shard, config, position)
    return read_samples(shard.url, config.input, config.limits.max_video_bytes, position, first_index)


def slice_begins(shard: ShardRef, config: Config) -> list[int]:
    """The position of each slice. A tar is read to its end for it; nothing is decoded."""
    part_samples = config.output.part_samples
    if isinstance(shard, TableShard):
        return list(range(0, len(shard.rows), part_samples))
    ends = (sample for sample in samples_of(shard, config) if not sample.last)
    return [0, *(sample.next_position for sample in ends if (sample.index + 1) % part_samples == 0)]


def shard_info(shard: ShardRef) -> FileInfo:
    """Size and version tag of the shard's file. Raises ShardError where it is missing."""
    try:
        return stat_url(shard.url)
    except FileNotFoundError:
        raise ShardError(f"{public_url(shard.url)} does not exist") from None
