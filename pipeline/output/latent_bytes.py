"""The bytes of a stored latent, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder import Dtype
from pipeline.errors import SampleError
from pipeline.records import FloatLatent

VALUE_BYTES: dict[Dtype, int] = {"float16": 2, "bfloat16": 2, "float32": 4}
LARGEST: dict[Dtype, float] = {
    "float16": float(np.finfo(np.float16).max),
    "bfloat16": (2 - 2**-7) * 2.0**127,
    "float32": float(np.finfo(np.float32).max),
}


def encode_latent(latent: FloatLatent, dtype: Dtype, key: str = "output.dtype") -> bytes:
    """Row-major little-endian bytes of a latent `c t h w`, or of any other array; `key` is what sets its dtype.

    Raises:
        SampleError: `non_finite`, or `out_of_range` where the storage dtype cannot hold a value; never clipped.
    """
    finite = np.isfinite(latent)
    if not finite.all():
        raise SampleError("encode", "non_finite", f"{latent.size - int(finite.sum()):,} of {latent.size:,} values")
    largest, limit = float(np.abs(latent).max(initial=0)), LARGEST[dtype]
    if largest > limit:
        raise SampleError("encode", "out_of_range", f"{largest:g} is beyond {dtype}'s {limit:g}; use {key}")
    if dtype == "float32":
        return np.ascontiguousarray(latent, "<f4").tobytes()
    if dtype == "bfloat16":
        return _bfloat16_bits(latent).tobytes()
    return np.ascontiguousarray(latent, "<f2").tobytes()


def decode_latent(data: bytes, shape: list[int], dtype: str) -> FloatLatent:
    """The inverse of `encode_latent`, as float32 `c t h w`. Raises ValueError where the length is wrong."""
    if dtype == "bfloat16":
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(np.float32).reshape(shape)


def latent_of(row: Mapping[str, Any]) -> FloatLatent:
    """The latent of a row that was read from a part, float32 `c t h w`."""
    return decode_latent(row["vae_latent_bytes"], row["vae_latent_shape"], row["vae_latent_dtype"])


def _bfloat16_bits(latent: FloatLatent) -> npt.NDArray[np.uint16]:
    """Rounds to nearest, ties to even, by adding just under half of the last bit that is kept."""
    bits = np.ascontiguousarray(latent, "<f4").view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2")
