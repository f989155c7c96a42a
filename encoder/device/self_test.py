"""One convolution at a run's own size, compared with float32, before a GPU computes latents."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.device.cuda import exact_arithmetic
from encoder.device.memory import readable

CHANNELS = 128
MOST_MEMORY = 3  # times input and output: kernels that unfold their input take 27
COMPARED_ROWS = 16  # in each of three bands, which is what float32 is computed of
# Relative root mean square error, of input and output rounded to the type
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
Convolve = Callable[[Tensor, Tensor], Tensor]
PeakBytes = Callable[[Callable[[], Tensor]], tuple[Tensor, int]]


def self_test(
    frames: int,
    height_px: int,
    width_px: int,
    dtype: torch.dtype,
    device: torch.device,
    convolve: Convolve = lambda x, weight: F.conv3d(x, weight, padding=(0, 1, 1)),
    peak_bytes: PeakBytes | None = None,
) -> None:
    """Raises ValueError where a 128-128 convolution of so many frames is wrong or takes too much memory.

    Args:
        convolve: `b c t+2 h w` and `c' c 3 3 3` to `b c' t h w`.
        peak_bytes: a call's result, and the memory that it allocated at its peak; None for CUDA's own count.
    """
    generator = torch.Generator(device).manual_seed(0)
    shape = (1, CHANNELS, frames + 2, height_px, width_px)
    x = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, 3, generator=generator, device=device).mul_(0.02).to(dtype)
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    what = f"the self-test, a convolution of {frames}x{height_px}x{width_px} in {str(dtype)[6:]} on {device},"
    with torch.inference_mode(), exact_arithmetic():
        y, allocated = (peak_bytes or _peak_bytes)(lambda: convolve(x, weight))
        error = max(_error(x, weight, y, top) for top in {0, height_px // 2, max(0, height_px - COMPARED_ROWS)})
    if not error <= TOLERANCES[dtype]:  # also where it is not a number
        raise ValueError(
            f"{what} differs from float32 by {error:.2g}, where {TOLERANCES[dtype]:.2g} is allowed: "
            "install other versions of torch and cuDNN, or use encoder.dtype float32"
        )
    most = MOST_MEMORY * (x.nbytes + y.nbytes)
    if x.nbytes + allocated > most:
        raise ValueError(
            f"{what} took {readable(x.nbytes + allocated)}, where {readable(most)} is allowed: "
            "torch falls back to a slow kernel; install other versions of torch and cuDNN"
        )


def _error(x: Tensor, weight: Tensor, y: Tensor, top: int) -> float:
    """The relative error of some rows from `top`, against float32 of the same inputs."""
    bottom = min(y.shape[3], top + COMPARED_ROWS)
    above, below = max(0, top - 1), min(y.shape[3], bottom + 1)
    edges = (0, 0, int(top == 0), int(bottom == y.shape[3]))  # zeros beside, above and below the picture
    exact = F.conv3d(F.pad(x[:, :, :, above:below].float(), edges), weight.float(), padding=(0, 0, 1))
    return float((y[:, :, :, top:bottom].float() - exact).norm() / exact.norm())


def _peak_bytes(call: Callable[[], Tensor]) -> tuple[Tensor, int]:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = call()
    torch.cuda.synchronize()
    return y, torch.cuda.max_memory_allocated() - before
