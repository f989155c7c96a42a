"""The claims of a run: one replica that stays alone is given none, and no actor is started for it."""

import pytest
import ray

from pipeline.cluster.claims import RunClaims
from pipeline.latents.helping import NoClaims


def test_one_replica_that_stays_alone_needs_no_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise AssertionError("an actor takes a second of a core to start")

    monkeypatch.setattr(ray, "remote", start)
    claims = RunClaims(alone=True)
    assert isinstance(claims.of_replica(), NoClaims)
    claims.forget("shard")
    claims.release("shard", 0)
    claims.end()
