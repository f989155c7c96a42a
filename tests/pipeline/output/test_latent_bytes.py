"""A latent is stored in the bytes that its type has elsewhere, or refused: never clipped, never cut."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from support.makers import WIDE, made_latent

from encoder import Dtype
from pipeline.errors import SampleError
from pipeline.output.latent_bytes import LARGEST, VALUE_BYTES, decode_latent, encode_latent
from pipeline.records import FloatLatent

DTYPES: tuple[Dtype, ...] = ("float16", "bfloat16", "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_value_takes_as_many_bytes_as_its_type(dtype: Dtype) -> None:
    assert len(encode_latent(made_latent(1), dtype)) == 60 * VALUE_BYTES[dtype]


@given(
    npst.arrays(np.float32, st.integers(1, 20), elements=st.floats(-LARGEST["bfloat16"], LARGEST["bfloat16"], width=32))
)
def test_bfloat16_has_the_bytes_that_torch_gives(latent: FloatLatent) -> None:
    assert encode_latent(latent, "bfloat16") == torch.from_numpy(latent).bfloat16().view(torch.int16).numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_and_counted(dtype: Dtype, value: float) -> None:
    latent = made_latent(1)
    latent[0, 0, 0, :2] = value
    with pytest.raises(SampleError, match="encode/non_finite: 2 of 60 values"):
        encode_latent(latent, dtype)


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65505.0), ("bfloat16", -3.4e38)])
def test_a_value_beyond_the_storage_type_is_refused_and_never_clipped(dtype: Dtype, value: float) -> None:
    with pytest.raises(SampleError, match=rf"encode/out_of_range: .* beyond {dtype}'s"):
        encode_latent(np.array([value], np.float32), dtype)
    encode_latent(np.array([value], np.float32), "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_values_of_a_storage_type_are_stored(dtype: Dtype) -> None:
    latent = np.array([LARGEST[dtype], -LARGEST[dtype]], np.float32)
    np.testing.assert_array_equal(decode_latent(encode_latent(latent, dtype), [2], dtype), latent)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_latent_whose_bytes_do_not_fit_its_shape_is_refused(dtype: Dtype) -> None:
    data = encode_latent(made_latent(1), dtype)
    for wrong in (data[:-1], data[:-4], data + data):
        with pytest.raises(ValueError, match=r"reshape|multiple"):
            decode_latent(wrong, list(WIDE), dtype)
