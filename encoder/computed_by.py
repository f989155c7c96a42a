"""What computes latents here: the processor or GPU, its instruction set, and the libraries whose kernels run.

These change only the last bits of a latent.
"""

import os
import platform
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from encoder.device.cuda import driver_version
from encoder.kernels.c_library import compiler_version
from encoder.kernels.fused_norms import has_triton

CPUINFO = Path("/proc/cpuinfo")
# Instruction sets for which oneDNN has kernels, best first, and the CPU flags that each of them needs
ONEDNN_ISAS = {
    "AVX512_CORE_AMX_FP16": {"amx_tile", "amx_int8", "amx_bf16", "amx_fp16"},
    "AVX512_CORE_AMX": {"amx_tile", "amx_int8", "amx_bf16"},
    "AVX512_CORE_FP16": {"avx512_fp16", "avx512_bf16"},
    "AVX512_CORE_BF16": {"avx512_bf16"},
    "AVX512_CORE_VNNI": {"avx512_vnni"},
    "AVX512_CORE": {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
    "AVX2_VNNI_2": {"avx2", "avx_vnni", "avx_vnni_int8", "avx_ne_convert"},
    "AVX2_VNNI": {"avx2", "avx_vnni"},
    "AVX2": {"avx2"},
    "AVX": {"avx"},
    "SSE41": {"sse4_1"},
}


def computed_by(device: torch.device, in_c: bool) -> dict[str, str]:
    """Descriptions by name, as strings; `in_c` says whether our functions in C are used."""
    if device.type == "cuda":
        return _of_gpu(device)
    values = _of_cpu()
    return values | {"c_compiler": compiler_version()} if in_c else values


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """What a measurement was made on: device model, CPU threads, version of torch."""
    return {"device": computed_by(device, in_c=False)["model"], "threads": threads, "torch": torch.__version__}


def onednn_isa(flags: Iterable[str], most: str | None) -> str:
    """The best instruction set for a processor with these flags, up to `most` (ONEDNN_MAX_CPU_ISA)."""
    names = list(ONEDNN_ISAS)
    allowed = names[names.index(most.upper()) :] if most and most.upper() in names else names
    return next((name for name in allowed if ONEDNN_ISAS[name] <= set(flags)), "unknown")


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The flags of the first processor in a /proc/cpuinfo."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


@cache
def _of_cpu() -> dict[str, str]:
    cpuinfo = CPUINFO.read_text() if CPUINFO.exists() else ""
    model = re.search(r"^model name\s*:\s*(.*?)\s*$", cpuinfo, re.MULTILINE)
    built = torch.__config__.show()
    libraries = {"onednn": r"MKL-DNN v([\w.]+)", "mkl": r"oneAPI Math Kernel Library Version ([\w.]+)"}
    return {
        "device": "cpu",
        "model": model[1] if model else platform.processor() or platform.machine(),
        "torch_instructions": torch.backends.cpu.get_cpu_capability(),
        "onednn_instructions": onednn_isa(cpu_flags(cpuinfo), os.environ.get("ONEDNN_MAX_CPU_ISA")),
        "torch": torch.__version__,
        **{name: found[1] for name, pattern in libraries.items() if (found := re.search(pattern, built))},
    }


def _of_gpu(device: torch.device) -> dict[str, str]:
    driver = driver_version()
    return {
        "device": "cuda",
        "model": torch.cuda.get_device_name(device),
        **({"driver": driver} if driver else {}),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "norms": "triton" if has_triton() else "torch",
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }
