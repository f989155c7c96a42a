"""A configuration and every node of its cluster, from which a run would start."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.cluster.joining import connected
from pipeline.cluster.nodes import NodeFacts, node_facts, on_each_node
from pipeline.config.load import Config
from pipeline.config.runtime import RuntimeConfig
from pipeline.doctor.findings import Finding, bad, ok, warn
from pipeline.doctor.machine import look_at_machine
from pipeline.doctor.storage import check_input, check_output, check_weights, marked, nearest_folder
from pipeline.errors import LatentmillError, UserError
from pipeline.estimate.gpu_check import check_gpu
from pipeline.estimate.preview import stored_bytes
from pipeline.latents.load import check_memory
from pipeline.run import LIBRARIES, Prepared, examine, versions_of
from pipeline.spread import evenly

SHARDS_READ = 3
HERE = "here"
Located = tuple[str, Finding]  # the address of a node, or HERE


@dataclass(frozen=True, slots=True)
class Asked:
    """What each node is asked: whether replicas may run there on this configuration's input and output.

    `marker` is a file in `folder`, where the output begins.
    """

    config: Config
    urls: tuple[str, ...]
    shards: int
    folder: str
    marker: str | None
    versions: Mapping[str, str]
    scratch_bytes: int
    gpus: int


def diagnose(config: Config) -> Iterator[Located]:
    """What there is to say of a configuration, where the run starts and on each node, as it is found."""
    findings, prepared, scratch_bytes = check_configuration(config)
    yield from ((HERE, finding) for finding in findings)
    shards = prepared.shards if prepared else ()
    urls = tuple(dict.fromkeys(shard.url for shard in evenly(shards, SHARDS_READ)))
    folder, versions = nearest_folder(config.output.path), versions_of(LIBRARIES)
    with marked(folder) as marker:
        asked = Asked(config, urls, len(shards), folder, marker, versions, scratch_bytes, 0)
        try:
            with connected(config.runtime):
                yield from _of_nodes(asked)
        except LatentmillError as error:
            yield HERE, bad("Ray", str(error), "docs/clusters.md says how a cluster is started and joined")
            yield from ((HERE, finding) for finding in look_at_node(asked, NodeFacts("", "", 0, 0)))


def _of_nodes(asked: Asked) -> Iterator[Located]:
    nodes = node_facts()
    yield HERE, check_nodes(asked.config.runtime, nodes)
    asked = replace(asked, gpus=sum(node.gpus for node in nodes))
    for node, answer in on_each_node(nodes, look_at_node, asked):
        if isinstance(answer, str):
            yield node.address, bad("node", f"it does not answer: {answer}", "look at its log, or take it out")
        else:
            yield from ((node.address, finding) for finding in answer)


def check_configuration(config: Config) -> tuple[list[Finding], Prepared | None, int]:
    """What `run` would refuse before it starts; the bytes that a part takes in temporary files."""
    try:
        prepared, loaded = examine(config)
    except LatentmillError as error:
        return [bad("configuration", str(error), "a run would refuse it with the same words")], None, 0
    done = len(prepared.done & {shard.name for shard in prepared.shards})
    found = [ok("configuration", f"{len(prepared.shards):,} shards, {done:,} of them done; the weights fit")]
    sizes = zip(config.clip.bucket_frames, config.clip.bucket_sizes_px, strict=True)
    largest = max(stored_bytes(config.output, loaded.spec, (frames or 1, *size)) for frames, size in sizes)
    if config.runtime.address is None and not check_gpu(config).expected:
        try:
            check_memory(config.clip, loaded)
        except UserError as error:
            found.append(bad("memory", str(error), "use smaller buckets, fewer frames, or a machine with more memory"))
    return found, prepared, largest * config.output.part_samples


def check_nodes(runtime: RuntimeConfig, nodes: Sequence[NodeFacts]) -> Finding:
    """Whether the cluster has what the replicas of the configuration ask for."""
    gpus, cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    found = f"nodes: {len(nodes):,}, GPUs: {gpus:,}, CPUs: {cpus:,}"
    least, _ = runtime.replica_bounds
    if not gpus and runtime.device == "cuda":
        return bad("Ray", f"{found}, where runtime.device is cuda", "start nodes with GPUs (ray start --num-gpus)")
    if not gpus and runtime.waits_for_gpus:
        advice = "start nodes with GPUs, or name a number of replicas, as runtime.replicas=1, which then use CPUs"
        return warn("Ray", f"{found}: a run would wait for a GPU", advice)
    if 0 < gpus < least:
        return warn("Ray", f"{found}: {least - gpus} of {least} replicas would wait", f"runtime.replicas={gpus}")
    return ok("Ray", found)


def look_at_node(asked: Asked, node: NodeFacts) -> list[Finding]:
    """The machine of this process, and its storage where replicas would run: not on nodes that only decode."""
    config = asked.config.replaced({"runtime.device": asked.config.runtime.device_of(node.gpus > 0)})
    found = list(look_at_machine(config, asked.versions, asked.scratch_bytes))
    if node.gpus or not asked.gpus:
        found.append(check_weights(asked.config.encoder.weights))
        if asked.urls:
            found.append(check_input(asked.urls, asked.shards))
        found += check_output(asked.folder, asked.marker)
    return found
