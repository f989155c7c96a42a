"""Ray: the claims of a run in an actor of their own, beside the driver."""

from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.nodes import node_here
from pipeline.latents.helping import Claim, SharedClaims

ANSWER_SECONDS = 10.0


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
