"""Ray: measures `encoder.convolutions: auto` where a replica would run."""

import time
from collections.abc import Callable, Iterator, Sequence

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.cluster.gpus import Waiting
from pipeline.cluster.nodes import POLL_SECONDS, count_gpus, first_line, node_here, on_gpus
from pipeline.cluster.replica import gpu_here, resources_of, threads_of
from pipeline.config.load import Config
from pipeline.errors import TransientError
from pipeline.latents.tuned import Choice, keep, kept, key_here
from pipeline.monitor.events import Event


def measure_convolutions(
    config: Config, shapes: Sequence[str], on_event: Callable[[Event], None], check: Callable[[], None]
) -> Choice:
    """What `encoder.convolutions: auto` comes to where a replica would run; waits for a GPU where one is expected.

    `shapes` are those of the encoder's convolutions (`VideoEncoder.tunable`). `check` is called at least every half
    second; what it raises ends the waiting.

    Raises:
        TransientError: no GPU came for `runtime.wait_for_gpus_minutes`, or its node was lost again and again.
    """
    expects_gpus, waiting = on_gpus(config.runtime), Waiting(config.runtime.wait_for_gpus_minutes)
    replicas = config.runtime.replica_bounds[0]
    if config.runtime.address is None and not expects_gpus:
        choice = kept(key_here(config.encoder, shapes, _threads(replicas)))
        if choice is not None:
            return choice  # without waiting for a process that would say the same
    task = ray.remote(_measure).options(num_gpus=int(expects_gpus), num_cpus=0, num_returns="streaming", max_retries=10)
    stream, has_begun = task.remote(config, shapes, replicas), False
    try:
        while True:
            check()
            if not has_begun and expects_gpus and (event := waiting.look(1, 0, count_gpus(), time.monotonic())):
                on_event(event)
            if ray.wait([stream], timeout=POLL_SECONDS, fetch_local=False)[0]:
                chosen: Choice | None = ray.get(next(stream))
                has_begun = True
                if chosen is not None:
                    return chosen
    except RayTaskError as error:
        raise getattr(error, "cause", error) from None
    except RayError as error:
        raise TransientError(f"convolutions could not be measured: {first_line(error)}") from None


def _measure(config: Config, shapes: Sequence[str], replicas: int) -> Iterator[Choice | None]:
    """Which algorithms are fastest on the device of this process, measured once on each machine; None: it begins."""
    import encoder
    from pipeline.latents.load import load_encoder

    yield None
    threads = _threads(replicas)
    encoder.set_threads(threads)
    key = key_here(config.encoder, shapes, threads)
    choice = kept(key)
    if choice is None:
        choice = load_encoder(config.encoder, config.runtime.device_of(bool(gpu_here()))).identity["convolutions"]
        keep(key, choice)
    yield choice


def _threads(replicas: int) -> int:
    """Those of a replica on this node."""
    return threads_of(resources_of(node_here()), replicas)
