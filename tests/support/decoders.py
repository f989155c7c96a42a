"""Decoders that die, hang or are slow, for workers in processes of their own."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.clips.plan import ClipRules
from pipeline.config.load import Config
from pipeline.records import DecodeItem
from pipeline.video.decode import decode_sample


def crash_always(video: bytes, config: Config, rules: ClipRules) -> Iterator[DecodeItem | None]:
    yield None
    os.kill(os.getpid(), signal.SIGSEGV)


def crash_once_half_way(video: bytes, config: Config, rules: ClipRules) -> Iterator[DecodeItem | None]:
    yield None
    mark = Path(config.output.path)
    for number, item in enumerate(decode_sample(video, config.clip, config.limits, False, rules)):
        if number == 2 and not mark.exists():
            mark.touch()
            time.sleep(1)  # what was yielded before must reach the reader
            os.kill(os.getpid(), signal.SIGKILL)
        yield item


def hang(video: bytes, config: Config, rules: ClipRules) -> Iterator[DecodeItem | None]:
    yield None
    time.sleep(3600)


def read_on_for_long(video: bytes, config: Config, rules: ClipRules) -> Iterator[DecodeItem | None]:
    yield None
    items = decode_sample(video, config.clip, config.limits, False, rules)
    yield next(items)
    for _ in range(4):
        time.sleep(1)
        yield None
    yield from items
