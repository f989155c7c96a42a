"""Convolutions by Winograd's filtering: equal to direct ones, whatever the shape, the precision and the threads."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs import LoadFullSize
from torch import Tensor

import encoder
from encoder.device.workspace import Workspace
from encoder.kernels.c_library import PANEL
from encoder.kernels.c_winograd import CWinograd
from encoder.kernels.torch_winograd import Winograd, WinogradHeight, band_rows
from encoder.kernels.winograd import MAX_OUTPUTS, cut, filtering, runs_of, time_filters
from encoder.tuning import ALGORITHMS, PRODUCTS, TOLERANCES, ConvShape, candidates, choose, fastest

ALL = pytest.mark.parametrize("algorithm", [WinogradHeight, Winograd, CWinograd])


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def layer(channels: int, out_channels: int, frames: int, height: int, width: int, batch: int = 1) -> tuple[Tensor, ...]:
    """Frames with two of history before them, a kernel that keeps their scale, and a bias."""
    x = seeded(batch, channels, 2 + frames, height, width).contiguous(memory_format=torch.channels_last_3d)
    weight = seeded(out_channels, channels, 3, 3, 3) / (27 * channels) ** 0.5
    return x, weight, seeded(out_channels)


def error(made: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> float:
    exact = F.conv3d(x.double(), weight.double(), bias.double(), padding=(0, 1, 1))
    assert made.shape == exact.shape
    return float((made.double() - exact).norm() / exact.norm())


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Leaves torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("outputs", range(1, MAX_OUTPUTS + 1))
def test_filtering_is_the_correlation_with_three_taps(outputs: int) -> None:
    made = filtering(outputs)
    values, taps = seeded(outputs + 2).double(), seeded(3).double()
    expected = F.conv1d(values[None, None], taps[None, None])[0, 0]
    torch.testing.assert_close(made.output @ ((made.kernel @ taps) * (made.input @ values)), expected)


@pytest.mark.parametrize("outputs", range(1, MAX_OUTPUTS + 1))
def test_the_kernels_of_fewer_outputs_are_among_those_of_more(outputs: int) -> None:
    points = time_filters(MAX_OUTPUTS, "first", torch.zeros(()))[outputs].points
    assert torch.equal(filtering(MAX_OUTPUTS).kernel[list(points)], filtering(outputs).kernel)


@pytest.mark.parametrize("most", range(1, MAX_OUTPUTS + 1))
@pytest.mark.parametrize(("padding", "values"), [("replicate", (3, 3, 3)), ("zeros", (0, 0, 3))])
def test_a_clip_s_first_frame_needs_one_product(most: int, padding: Any, values: tuple[int, ...]) -> None:
    alone, taps = time_filters(most, padding, torch.zeros((), dtype=torch.float64))[0], seeded(3).double()
    kernel = filtering(most).kernel[list(alone.points)] @ taps
    seen = torch.tensor(values).double()
    torch.testing.assert_close(alone.output @ (kernel * (alone.input @ seen)), (taps @ seen)[None])


@given(frames=st.integers(1, 100), most=st.integers(1, 9))
def test_cutting_leaves_no_frame_out_and_takes_none_twice(frames: int, most: int) -> None:
    runs = cut(frames, most)
    assert [frame for start, count in runs for frame in range(start, start + count)] == list(range(frames))
    assert all(1 <= count <= most for _, count in runs)


@given(frames=st.integers(1, 30), most=st.integers(1, 4), begins=st.booleans())
def test_runs_leave_no_frame_out_and_only_a_clip_s_first_one_is_by_itself(frames: int, most: int, begins: bool) -> None:
    runs = runs_of(frames, most, begins)
    assert [frame for start, count, _ in runs for frame in range(start, start + count)] == list(range(frames))
    assert [index for _, _, index in runs] == [0] * begins + [count for _, count, _ in runs[begins:]]


@ALL
@settings(max_examples=25, deadline=None)
@given(
    channels=st.sampled_from([3, 8, 20]),
    out_channels=st.sampled_from([5, 16]),
    frames=st.integers(1, 9),
    sides=st.tuples(st.integers(1, 41), st.integers(1, 30)),
    max_frames=st.integers(1, 4),
    batch=st.integers(1, 2),
    padding=st.sampled_from([None, "replicate", "zeros"]),
)
def test_every_shape_equals_the_direct_convolution(
    algorithm: Any,
    channels: int,
    out_channels: int,
    frames: int,
    sides: tuple[int, int],
    max_frames: int,
    batch: int,
    padding: Any,
) -> None:
    if algorithm is CWinograd:
        channels, out_channels = (-(-count // 8) * PANEL for count in (channels, out_channels))
    x, weight, bias = layer(channels, out_channels, frames, *sides, batch)
    if padding is not None:
        x[:, :, :2] = x[:, :, 2:3] if padding == "replicate" else 0
    convolution = algorithm.of(weight, max_frames, Workspace(), padding or "replicate")
    assert error(convolution(x, bias, begins=padding is not None), x, weight, bias) < 2e-5


@ALL
def test_half_precision_errs_by_its_own_rounding(algorithm: Any) -> None:
    x, weight, bias = (tensor.bfloat16() for tensor in layer(32, 32, 4, 24, 36))
    assert error(algorithm.of(weight, 4, Workspace())(x, bias), x, weight, bias) < (
        1e-2 if algorithm is WinogradHeight else 2.5e-3
    )


@ALL
@pytest.mark.parametrize("sides", [(160, 72), (5, 6)], ids=["many bands", "one band"])
def test_threads_do_not_change_the_bits(algorithm: Any, sides: tuple[int, int]) -> None:
    x, weight, bias = layer(32, 32, 5, *sides)
    made = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        made.append(algorithm.of(weight, 4, Workspace())(x, bias))
        assert torch.get_num_threads() == count
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_a_failure_in_a_thread_is_raised() -> None:
    torch.set_num_threads(2)
    (x, _, bias), (_, other, _) = layer(8, 8, 4, 300, 64), layer(9, 8, 4, 1, 1)
    with pytest.raises(RuntimeError):
        WinogradHeight.of(other, 4, Workspace())(x, bias)


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Algorithms are measured on pictures a hundredth of those that a machine is measured by."""
    monkeypatch.setitem(PRODUCTS, "cpu", 1e8)


@pytest.fixture(scope="module")
def video() -> Tensor:
    return torch.rand(1, 3, 9, 16, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def direct(video: Tensor, full_size: LoadFullSize) -> Tensor:
    return full_size("cogvideox", convolutions="direct").encode(video).mean


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_full_size_encoder_gives_the_latents_of_direct_convolutions(
    name: str, video: Tensor, direct: Tensor, full_size: LoadFullSize
) -> None:
    loaded = full_size("cogvideox", convolutions=name)
    assert set(loaded.identity["convolutions"].values()) == {name}
    mean = loaded.encode(video).mean
    assert not torch.equal(mean, direct)
    assert float((mean - direct).norm() / direct.norm()) < 1e-4


@pytest.mark.slow
@pytest.mark.usefixtures("small_pictures", "wide_wan")
def test_what_was_measured_is_repeated_to_the_bit(video: Tensor) -> None:
    first = encoder.load("wan", weights="random:0")
    choice = first.identity["convolutions"]
    assert set(choice.values()) <= ALGORITHMS.keys()
    again = encoder.load("wan", weights="random:0", convolutions=choice)
    assert again.identity == first.identity
    assert torch.equal(again.encode(video).mean, first.encode(video).mean)


@pytest.mark.usefixtures("small_pictures")
def test_what_errs_more_than_the_tolerance_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCES, torch.float32, 1e-12)
    weight = layer(96, 96, 4, 1, 1)[1]
    assert fastest(weight, ConvShape(96, 96, 4)) == "direct"


def test_narrow_encoders_are_not_measured() -> None:
    tiny = encoder.load("tiny", weights="random:0")
    assert not tiny.tunable
    assert tiny.identity["convolutions"] == {}


@pytest.mark.usefixtures("wide_wan")
@pytest.mark.parametrize(
    ("convolutions", "message"),
    [
        ("fft", "convolutions is 'fft', but it must be one of: auto, direct, winograd_height, winograd, winograd_c"),
        ({"96-96x4": "fft"}, "'fft', but it must be one of"),
        ({"7-7x4": "winograd"}, "names the shape 7-7x4, but the encoder's shapes are: 192-192x1, 192-192x2"),
    ],
)
def test_an_unknown_algorithm_or_shape_is_refused_with_those_there_are(convolutions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.load("wan", weights="random:0", convolutions=convolutions)


@pytest.mark.usefixtures("wide_wan")
def test_direct_needs_no_choice() -> None:
    model: Any = encoder.load("wan", weights="random:0", convolutions="direct").engine.model  # type: ignore[attr-defined]
    assert choose(model, {}, "direct") == {}
    assert all(conv.algorithm is None for _, conv in candidates(model))


@given(rows=st.integers(1, 500), most=st.integers(1, 60))
def test_bands_are_of_equal_height_and_no_higher_than_they_may_be(rows: int, most: int) -> None:
    height = band_rows(rows, most)
    assert 1 <= height <= most
    bands = cut(rows, height)
    assert len(bands) == 1 or rows - bands[-1][0] > 0
    assert (rows <= most) == (len(bands) == 1)
