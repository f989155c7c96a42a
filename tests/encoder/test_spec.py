"""The options of `encoder.load` have the values that the code behind them takes."""

from typing import get_args

from encoder.loading import DTYPES
from encoder.spec import Convolutions, Dtype
from encoder.tuning import ALGORITHMS, AUTO, DIRECT


def test_every_precision_and_algorithm_may_be_asked_for_and_no_other() -> None:
    assert get_args(Dtype) == tuple(DTYPES)
    assert get_args(Convolutions) == (AUTO, DIRECT, *ALGORITHMS)
