"""Whether this machine can do what a configuration asks of a GPU, before a run asks it of one."""

from typing import NamedTuple

import encoder
from pipeline.config.load import Config


class GpuCheck(NamedTuple):
    """What was found, by name, and the problems, each with what to install. `expected` says whether CUDA must work."""

    found: dict[str, str]
    problems: tuple[str, ...]
    expected: bool


def check_gpu(config: Config | None) -> GpuCheck:
    """Checks this machine's driver, torch wheel, GPUs and cuDNN; where there is no sign of a GPU, none is expected."""
    found, absent, bad = encoder.check_cuda("bfloat16" if config is None else config.encoder.dtype)
    asked = config is not None and config.runtime.device == "cuda"
    expected = asked or "driver" in found
    if config is not None and (config.encoder.name == encoder.SIMULATED or config.runtime.device == "cpu"):
        return GpuCheck(found, (), expected=False)
    problems = (absent,) if absent and expected else ()
    return GpuCheck(found, problems + ((bad,) if bad and not absent else ()), expected)
