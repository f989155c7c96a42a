"""One machine: GPU, libraries, decoders, shared memory, temporary files."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np

import encoder
from encoder import AUTO
from pipeline.config.latents import ClipConfig
from pipeline.config.load import Config
from pipeline.config.runtime import LimitsConfig
from pipeline.doctor.findings import Finding, bad, ok, warn
from pipeline.estimate.gpu_check import check_gpu
from pipeline.monitor.words import size
from pipeline.run import LIBRARIES, versions_of

SHARED_MEMORY = Path("/dev/shm")
RAY_SHARE = 0.3  # of the memory, that Ray takes for objects where nothing else is said
RAY_LEAST_BYTES = 10e9  # above which Ray takes what shared memory there is
RAY_FULL = 0.95  # of a disk, from which on Ray writes no objects to it
TEST_FRAMES, TEST_SIDE_PX = 5, 64
AS_OURS = "install the same versions on every node: pip install -c constraints.txt latentmill"


def look_at_machine(config: Config | None, expected: Mapping[str, str], scratch_bytes: int = 0) -> Iterator[Finding]:
    """All that can be said of the machine of this process.

    Args:
        expected: the versions of the driver's libraries, empty where this is the driver.
        scratch_bytes: that a replica writes to temporary files for one part.
    """
    yield check_libraries(versions_of(LIBRARIES), expected)
    yield check_decoders()
    yield from (devices := list(check_devices(config)))
    if any(device.subject == "CPU" for device in devices):
        yield check_compiler(config, encoder.machine("cpu")["c_compiler"])
    yield check_shared_memory(shutil.disk_usage(SHARED_MEMORY).free, memory_bytes())
    yield check_scratch(tempfile.gettempdir(), *shutil.disk_usage(tempfile.gettempdir()), scratch_bytes)


def check_devices(config: Config | None) -> Iterator[Finding]:
    """Whether replicas compute on a GPU here, and rightly."""
    check = check_gpu(config)
    found = ", ".join(f"{name} {value}" for name, value in check.found.items())
    if not check.expected:
        cpus = len(os.sched_getaffinity(0))
        yield ok("CPU", f"no GPU is expected here: encoders run on {cpus} CPU cores ({found})")
        return
    for problem in check.problems:
        yield bad("GPU", f"replicas refuse this GPU: {problem}", "latents of the CPU: runtime.device=cpu")
    if not check.problems:
        yield ok("GPU", found)


def check_libraries(versions: Mapping[str, str], expected: Mapping[str, str]) -> Finding:
    """Whether everything is installed, in the versions of the driver."""
    absent = [name for name, version in versions.items() if version == "unknown" and name != "latentmill"]
    if absent:
        return bad("libraries", f"{', '.join(absent)} cannot be found by this Python", AS_OURS)
    if "decord" in _installed():
        both = "decord is installed beside decord2, and both are imported as `decord`: which one decodes is chance"
        return bad("libraries", both, "pip uninstall decord decord2, then pip install decord2")
    others = [
        f"{name} {versions[name]} ({expected[name]} where the run starts)"
        for name in sorted(versions.keys() & expected.keys() - {"latentmill"})
        if versions[name] != expected[name]
    ]
    if others:
        return warn("libraries", f"{', '.join(others)}: the last bits of latents may differ between nodes", AS_OURS)
    return ok("libraries", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _installed() -> set[str]:
    return {str(each.metadata["Name"]).lower() for each in metadata.distributions()}


def check_decoders() -> Finding:
    """Decodes a small video by both decoders, which must see its frames alike."""
    advice = "pip install --force-reinstall decord2 av"
    try:
        from pipeline.video.decode import memory_file
        from pipeline.video.decord_pictures import decord_pictures
        from pipeline.video.pixels.rgb import look_of
        from pipeline.video.probe import probe
        from pipeline.video.pyav_pictures import PyavPictures
        from pipeline.video.synthetic.videos import make_video, read_number

        with memory_file(make_video(TEST_FRAMES, 8, TEST_SIDE_PX, TEST_SIDE_PX)) as path:
            found = probe(path, "mp4", LimitsConfig())
            needed = bytearray([1] * TEST_FRAMES)
            by_pyav = PyavPictures(path, found, LimitsConfig(), False, look_of(found.header, ClipConfig()))
            pictures = [
                [one for one in each if one]
                for each in (decord_pictures(path, found, needed), by_pyav.pictures(needed))
            ]
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return bad("decoders", f"a test video cannot be decoded ({error}), and no other could be", advice)
    numbers = [[read_number(picture) for _, picture in each] for each in pictures]
    if numbers != [list(range(TEST_FRAMES))] * 2:
        return bad("decoders", f"the frames of a test video are read as {numbers[0]} and {numbers[1]}", advice)
    apart = max(int(np.abs(a[1].astype(int) - b[1]).max()) for a, b in zip(*pictures, strict=True))
    return ok("decoders", f"Decord and PyAV decode a test video alike (at most {apart} of 255 apart)")


def check_compiler(config: Config | None, compiler: str) -> Finding:
    """Encoders on a CPU are faster with a C compiler."""
    if compiler != "none":
        return ok("C compiler", compiler)
    advice = "install gcc or clang, or pip install 'latentmill[compiler]'"
    if config is not None and config.encoder.convolutions not in (AUTO, "winograd_c"):
        return ok("C compiler", "none, and the configuration needs none")
    if config is not None and config.encoder.convolutions == "winograd_c":
        return bad("C compiler", "none, which encoder.convolutions: winograd_c needs", advice)
    return warn("C compiler", "none: the fastest convolutions on CPUs are compiled where they run", advice)


def check_shared_memory(free_bytes: float, all_memory_bytes: float) -> Finding:
    """Ray keeps decoded frames in shared memory, or on a disk where there is too little of it."""
    wanted = min(RAY_SHARE * all_memory_bytes, RAY_LEAST_BYTES)
    found = f"{size(free_bytes)} are free at {SHARED_MEMORY}"
    if free_bytes >= wanted:
        return ok("shared memory", found)
    return warn(
        "shared memory",
        f"{found}, where Ray wants {size(wanted)} for decoded frames: it takes a disk instead, which is slow",
        f"start the container with --shm-size={wanted / 1e9:.0f}g, or mount a memory volume at {SHARED_MEMORY}",
    )


def memory_bytes() -> float:
    """The memory of this machine."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def check_scratch(folder: str, total: int, used: int, free: int, scratch_bytes: int) -> Finding:
    """Parts are written to temporary files before they are committed, and Ray has its files there too."""
    found, advice = f"{size(free)} are free in {folder}", "free some of it, or set TMPDIR to a larger disk"
    if free < scratch_bytes:
        return bad("temporary files", f"{found}, and one part of this run takes {size(scratch_bytes)}", advice)
    if total - free > RAY_FULL * total:
        return warn("temporary files", f"{found}: Ray writes nothing to a disk that is {RAY_FULL:.0%} full", advice)
    return ok("temporary files", found)
