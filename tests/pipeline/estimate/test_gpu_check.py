"""Whether a GPU is expected and can be used, with stand-ins for the machine."""

import pytest
from support.runs import MakeConfig

import encoder
from pipeline.estimate.gpu_check import check_gpu

WITHOUT_WHEEL = ({"driver": "580.65", "torch": "2.10.0+cpu"}, "torch finds no CUDA device: install a wheel", None)


def test_a_machine_with_a_driver_and_a_cpu_wheel_is_a_problem(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "check_cuda", lambda dtype: WITHOUT_WHEEL)
    assert check_gpu(make_config()).problems == (WITHOUT_WHEEL[1],)


def test_a_machine_without_a_gpu_is_one_only_where_cuda_is_asked_for(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "check_cuda", lambda dtype: ({"torch": "2.10.0+cpu"}, "no CUDA", None))
    assert check_gpu(make_config()).problems == ()
    assert check_gpu(make_config(runtime={"device": "cuda"})).problems == ("no CUDA",)
    assert check_gpu(make_config(runtime={"device": "cpu"})).problems == ()


def test_libraries_known_to_be_wrong_are_a_problem_in_the_precision_of_the_configuration(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {"bfloat16": "cuDNN 9.10.2 is wrong"}
    monkeypatch.setattr(encoder, "check_cuda", lambda dtype: ({"driver": "580.65"}, None, bad.get(dtype)))
    config = make_config()
    assert check_gpu(config.replaced({"encoder.dtype": "bfloat16"})).problems == ("cuDNN 9.10.2 is wrong",)
    assert check_gpu(config.replaced({"encoder.dtype": "float32"})).problems == ()
