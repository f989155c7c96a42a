"""Ray: the claims of a run in an actor of their own, beside the driver."""

from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.nodes import end_actor, node_here
from pipeline.latents.helping import Claim, Claims, NoClaims, SharedClaims

ANSWER_SECONDS = 10.0


class RunClaims:
    """The claims of a run as its driver sees them. One replica that stays alone has nobody to share with."""

    def __init__(self, alone: bool) -> None:
        self._actor = None if alone else start_claims()

    def of_replica(self) -> Claims:
        """What a replica is given."""
        return NoClaims() if self._actor is None else RayClaims(self._actor)

    def forget(self, shard: str) -> None:
        """Nobody is at the shard any more."""
        if self._actor is not None:
            self._actor.forget.remote(shard)

    def release(self, shard: str, place: int) -> None:
        """One of those who share the shard has failed."""
        if self._actor is not None:
            self._actor.release.remote(shard, place)

    def end(self) -> None:
        if self._actor is not None:
            end_actor(self._actor)


def start_claims() -> Any:
    """An actor of SharedClaims on the driver's node."""
    here = NodeAffinitySchedulingStrategy(node_here(), soft=True)
    return ray.remote(num_cpus=0)(SharedClaims).options(scheduling_strategy=here).remote()


class RayClaims:
    """What a replica asks the actor. Where it does not answer, slices may be made twice, which harms nothing."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def take(self, shard: str, place: int, slice_index: int) -> Claim:
        try:
            claim: Claim = ray.get(self._actor.take.remote(shard, place, slice_index), timeout=ANSWER_SECONDS)
            return claim
        except RayError:
            return "mine"

    def made(self, shard: str, slice_index: int) -> None:
        self._actor.made.remote(shard, slice_index)
