"""The roots that status and verify are measured on are as a run would leave them, and requests are counted right."""

from pathlib import Path

from benchmarks.audit import make_root, requests_in
from pipeline.audit.status import read_status
from pipeline.audit.verify import Verified, verify
from pipeline.storage.store import Store


def test_every_shard_of_a_made_up_root_is_done_and_verifies(tmp_path: Path) -> None:
    store, seen = Store(str(make_root(tmp_path, shards=3, parts=2))), Verified()
    assert not list(verify(store, seen))
    assert (seen.shards, seen.parts, seen.rows) == (3, 6, 12)
    assert [(shard.state, shard.slices) for shard in read_status(store)] == [("done", 2)] * 3


def test_requests_are_counted_by_what_they_ask_for() -> None:
    log = (
        '127.0.0.1 - - [25/Nov/2026] "GET /audit?list-type=2&prefix=out HTTP/1.1" 200 -\n'
        '127.0.0.1 - - [25/Nov/2026] "\x1b[35m\x1b[1mGET /audit/out/run.json HTTP/1.1\x1b[0m" 206 -\n'
        '127.0.0.1 - - [25/Nov/2026] "HEAD /audit/out/run.json HTTP/1.1" 200 -\n'
    )
    assert requests_in(log) == {"LIST": 1, "GET": 1, "HEAD": 1}
