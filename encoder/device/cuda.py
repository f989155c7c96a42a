"""What is demanded of CUDA: that it is there, that it is not known to be wrong, and IEEE float32.

The decisions are pure functions of versions, so that they are tested without a GPU.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class CudaSetup(NamedTuple):
    """What there is of CUDA on this machine; None where there is none of it. `cudnn` is as torch has it, 91002."""

    driver: str | None
    torch: str
    wheel_cuda: str | None
    cudnn: int | None
    devices: tuple[str, ...]


def cuda_setup() -> CudaSetup:
    """The driver, the torch wheel and the GPUs of this machine."""
    devices: tuple[str, ...] = ()
    if torch.cuda.is_available():
        devices = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None  # type: ignore[no-untyped-call]
    return CudaSetup(driver_version(), torch.__version__, torch.version.cuda, cudnn, devices)


def driver_version() -> str | None:
    """The version of NVIDIA's kernel driver."""
    text = NVIDIA_DRIVER.read_text() if NVIDIA_DRIVER.exists() else ""
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else None


def found(setup: CudaSetup) -> dict[str, str]:
    """What is there, by name."""
    values = {
        "driver": setup.driver,
        "torch": setup.torch,
        "cuda": setup.wheel_cuda,
        "cudnn": setup.cudnn,
        "devices": ", ".join(setup.devices),
    }
    return {name: str(value) for name, value in values.items() if value}


def missing(setup: CudaSetup) -> str | None:
    """Why CUDA cannot be used, and what to install; None where it can."""
    if setup.devices:
        return None
    found = f"driver {setup.driver or 'none'}, torch {setup.torch} built for {_wheel(setup)}"
    if setup.wheel_cuda is None:
        advice = "install a torch wheel built for CUDA in the environment of the workers"
    elif setup.driver is None:
        advice = "install NVIDIA's driver, or start the container with access to the GPU"
    else:
        advice = (
            f"install a driver that supports CUDA {setup.wheel_cuda}, or a torch wheel for the CUDA that this driver "
            "supports (nvidia-smi shows it), and check that CUDA_VISIBLE_DEVICES is not empty"
        )
    return f"torch finds no CUDA device ({found}): {advice}"


def known_bad(setup: CudaSetup, dtype: str) -> str | None:
    """What is known to be wrong with 3D convolutions in this precision, and what to install; None if nothing is."""
    if dtype != "bfloat16":
        return None
    if setup.torch.split("+")[0] == "2.9.0":
        return (
            "torch 2.9.0 computes bfloat16 3D convolutions by unfolding, slowly and with 27 times the memory: "
            "install torch 2.9.1 or later, or 2.8"
        )
    if setup.cudnn == 91002:
        return (
            "cuDNN 9.10.2 gives wrong bfloat16 3D convolutions: install nvidia-cudnn 9.15 or later, "
            "or use encoder.dtype float32"
        )
    return None


def _wheel(setup: CudaSetup) -> str:
    return f"CUDA {setup.wheel_cuda}" if setup.wheel_cuda else "the CPU only"


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Has CUDA compute in IEEE float32, without TF32, by deterministic kernels that are not chosen by timing.

    The process's own settings hold again afterwards.
    """
    wanted = [*_IEEE, (torch.backends.cudnn, "deterministic", True), (torch.backends.cudnn, "benchmark", False)]
    before = [getattr(where, name) for where, name, _ in wanted]
    for where, name, value in wanted:
        setattr(where, name, value)
    try:
        yield
    finally:
        for (where, name, _), value in zip(wanted, before, strict=True):
            setattr(where, name, value)


def _ieee_settings() -> list[tuple[Any, str, Any]]:
    """torch 2.9 replaced the first pair by the second, and refuses to read one after the other was set."""
    if hasattr(torch.backends.cudnn, "conv"):
        return [
            (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
            (torch.backends.cudnn.conv, "fp32_precision", "ieee"),
        ]
    return [(torch.backends.cuda.matmul, "allow_tf32", False), (torch.backends.cudnn, "allow_tf32", False)]


_IEEE = _ieee_settings()
