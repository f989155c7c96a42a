"""What is demanded of CUDA, with stand-ins for the machine: that it is there, not known to be wrong, and exact."""

import pytest
import torch

from encoder.device import cuda
from encoder.device.cuda import CudaSetup, exact_arithmetic, known_bad, missing
from encoder.loading import Options, device_of, load_video_encoder
from encoder.tuning import ConvShape, _worth_measuring
from encoder.video_encoder import VideoEncoder

GOOD = CudaSetup("580.65", "2.10.0+cu128", "12.8", 91501, ("NVIDIA H100",))


def test_a_gpu_that_torch_finds_is_used() -> None:
    assert missing(GOOD) is None
    assert known_bad(GOOD, "bfloat16") is None


@pytest.mark.parametrize(
    ("setup", "advice"),
    [
        (GOOD._replace(devices=(), torch="2.10.0+cpu", wheel_cuda=None), "a torch wheel built for CUDA"),
        (GOOD._replace(devices=(), driver=None), "install NVIDIA's driver"),
        (GOOD._replace(devices=()), "a driver that supports CUDA 12.8"),
    ],
)
def test_without_cuda_the_message_has_driver_and_wheel_and_what_to_install(setup: CudaSetup, advice: str) -> None:
    problem = missing(setup)
    assert problem is not None
    assert advice in problem
    assert f"driver {setup.driver or 'none'}" in problem
    assert setup.torch in problem


def test_cuda_that_is_asked_for_never_becomes_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.loading.cuda_setup", lambda: GOOD._replace(devices=()))
    with pytest.raises(ValueError, match="torch finds no CUDA device"):
        device_of("cuda")


@pytest.mark.parametrize(
    ("setup", "name"),
    [(GOOD._replace(torch="2.9.0+cu128"), "torch 2.9.0"), (GOOD._replace(cudnn=91002), "cuDNN 9.10.2")],
)
def test_pairs_known_to_be_wrong_in_bfloat16_are_refused_by_name(setup: CudaSetup, name: str) -> None:
    assert name in str(known_bad(setup, "bfloat16"))
    assert known_bad(setup, "float32") is None


def test_an_encoder_does_not_load_onto_a_gpu_known_to_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.loading.cuda_setup", lambda: GOOD._replace(cudnn=91002))
    with pytest.raises(ValueError, match=r"cuDNN 9\.10\.2"):
        load_video_encoder("tiny", "random:0", Options("bfloat16", "cuda", 8, "chunk", "diffusers", None))


def test_float32_is_ieee_while_encoding_and_the_settings_of_the_process_hold_afterwards(
    tiny: VideoEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where, name, _ in cuda._IEEE:
        monkeypatch.setattr(where, name, "tf32" if name == "fp32_precision" else True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen: list[tuple[object, ...]] = []

    def settings() -> tuple[object, ...]:
        flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
        return (*(getattr(where, name) for where, name, _ in cuda._IEEE), *flags)

    class Watched:
        streams = True

        def encode_chunk(self, x: torch.Tensor, state: object) -> tuple[torch.Tensor, object]:
            seen.append(settings())
            return tiny.engine.encode_chunk(x, state)

        def plan(self, frames: int) -> tuple[int, ...]:
            return tiny.engine.plan(frames)

    watched = VideoEncoder(Watched(), tiny.shadow, tiny.spec, tiny.identity, tiny.device, tiny.dtype)
    before = settings()
    watched.encode(torch.zeros(1, 3, 1, 16, 16))
    assert seen == [(*(value for _, _, value in cuda._IEEE), False, True)]
    assert settings() == before


def test_settings_come_back_after_an_error() -> None:
    before = torch.backends.cudnn.deterministic
    with pytest.raises(ZeroDivisionError), exact_arithmetic():
        _ = 1 / 0
    assert torch.backends.cudnn.deterministic == before


@pytest.mark.parametrize(
    ("dtype", "measured"), [(torch.bfloat16, False), (torch.float16, False), (torch.float32, True)]
)
def test_auto_measures_on_a_gpu_only_in_float32(dtype: torch.dtype, measured: bool) -> None:
    class OnGpu:
        device = torch.device("cuda")

    weight = OnGpu()
    weight.dtype = dtype  # type: ignore[attr-defined]
    assert _worth_measuring([weight]) == measured  # type: ignore[list-item]
    assert _worth_measuring([torch.empty(ConvShape(96, 96, 8)[:2], dtype=dtype)])  # on a CPU always
