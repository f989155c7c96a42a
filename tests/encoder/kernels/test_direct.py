"""Convolutions, products and attention in pieces: torch's results, whatever the number of threads."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import ROOT
from torch import Tensor

from encoder.computed_by import ONEDNN_ISAS, computed_by, cpu_flags, onednn_isa
from encoder.kernels import direct
from encoder.kernels.direct import Piece, attention, convolve, linear, pieces_of

THREADS = (1, 2, 3, 5)
FLAGS = cpu_flags(Path("/proc/cpuinfo").read_text())
# One child for each instruction set: its latents by every number of threads must be those of one thread.
CHILD = """if True:
    import sys, torch, encoder
    CASES = [("tiny", 9, 48, 64), ("tiny", 9, 104, 136), ("tiny", 5, 64, 96), ("cogvideox", 5, 24, 32)]
    for dtype in sys.argv[1].split(","):
        loaded = {}
        for name, *shape in CASES:
            loaded[name] = loaded.get(name) or encoder.load(
                name, weights="random:0", dtype=dtype, convolutions="direct"
            )
            clip = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0)).to(loaded[name].dtype)
            made = {}
            for threads in map(int, sys.argv[2:]):
                encoder.set_threads(threads)
                made[threads] = loaded[name].encode(clip)
            first = next(iter(made.values()))
            for threads, latent in made.items():
                same = torch.equal(latent.mean, first.mean) and torch.equal(latent.logvar, first.logvar)
                assert same, f"{name} {dtype} {shape}: {threads} threads"
    print(loaded["tiny"].computed_by["onednn_instructions"])
"""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Leaves torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def seeded(*shape: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return values.contiguous(memory_format=torch.channels_last_3d) if values.ndim == 5 else values


@pytest.mark.parametrize(
    ("isa", "dtypes"),
    [("AVX2", "float32"), ("AVX512_CORE", "float32,bfloat16"), ("AVX512_CORE_AMX", "float32,bfloat16")],
)
@pytest.mark.slow
def test_on_each_kind_of_processor_threads_do_not_change_bits(isa: str, dtypes: str) -> None:
    """Not in bfloat16 where oneDNN has no kernels for it: what it does instead takes minutes."""
    if not ONEDNN_ISAS[isa] <= FLAGS:
        pytest.skip(f"this processor lacks {isa}")
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    command = [sys.executable, "-c", CHILD, dtypes, *map(str, THREADS)]
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert child.returncode == 0, child.stderr[-2000:]
    assert child.stdout.split() == [isa]


@settings(max_examples=200)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 300), st.integers(1, 20), st.integers(1, 400), st.integers(1, 400)),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_pieces_cover_the_output_once(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    made = pieces_of(torch.Size(shape), dtype)
    values = sum(len(piece.frames) * len(piece.rows) * len(piece.channels) for piece in made)
    assert values == shape[0] * shape[1] * shape[2] * shape[3]
    by_axis = [{piece[axis] for piece in made} for axis in range(4)]
    for ranges, size in zip(by_axis[1:], (shape[2], shape[3], shape[1]), strict=True):
        assert sorted(i for each in ranges for i in each) == list(range(size))
    assert len(made) == len(set(made))


@pytest.mark.parametrize(
    "shape", [(1, 128, 1, 128, 192), (1, 512, 2, 16, 24), (1, 32, 5, 24, 32), (1, 96, 1, 480, 720)]
)
def test_small_pictures_too_have_pieces_for_several_threads(shape: tuple[int, ...]) -> None:
    assert len(pieces_of(torch.Size(shape), torch.float32)) >= 4


def test_no_number_of_threads_changes_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given to be shared, by number of threads, for each operation that torch would divide itself."""
    shared: list[object] = []
    share = direct.share
    monkeypatch.setattr(
        direct, "share", lambda work, pieces, device: shared.append(pieces) or share(work, pieces, device)
    )
    x, weight, pixels = seeded(1, 80, 6, 40, 50), seeded(130, 80, 3, 3, 3), seeded(2, 3, 600, 80)
    seen = {}
    for count in THREADS:
        torch.set_num_threads(count)
        shared.clear()
        convolve(x, weight, seeded(130), padding_px=1)
        convolve(x, weight[:, :, 0].contiguous(), seeded(130), stride=(1, 2))
        linear(pixels, seeded(2000, 80), seeded(2000))
        attention(pixels, pixels, pixels)
        seen[count] = list(shared)
    assert all(len(pieces) > 1 for pieces in seen[1])
    assert len(seen[1]) == 4
    assert all(pieces == seen[1] for pieces in seen.values())


@pytest.mark.parametrize("rows", [None, 1, 3, 4])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding_px"),
    [((3, 3, 3), (1, 1), 1), ((3, 3), (1, 2), 0), ((3, 3), (1, 1), 1), ((3, 1, 1), (2, 1), 0)],
    ids=["causal", "halving", "of few channels", "in time"],
)
def test_a_convolution_in_pieces_is_torch_s(
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    padding_px: int,
    rows: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if rows:  # bands that begin and end anywhere
        monkeypatch.setattr(direct, "MOST_PX", rows * 6)
    x, weight, bias = seeded(2, 5, 7, 12, 13), seeded(70, 5, *kernel), seeded(70)
    kernel3d = weight if weight.ndim == 5 else weight[:, :, None]
    expected = F.conv3d(x, kernel3d, bias, (stride[0], stride[1], stride[1]), (0, padding_px, padding_px))
    made = convolve(x, weight, bias, stride, padding_px)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
    assert made.is_contiguous(memory_format=torch.channels_last_3d)
    out = torch.empty_like(made)
    assert convolve(x, weight, bias, stride, padding_px, out) is out
    assert torch.equal(out, made)


def test_matrix_products_and_attention_in_pieces_are_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "LINEAR_PRODUCTS", 7 * 48 * 16)
    monkeypatch.setattr(direct, "ATTENTION_QUERIES", 9)
    pixels, weight, bias = seeded(2, 3, 40, 16), seeded(48, 16), seeded(48)
    qkv = linear(pixels, weight, bias)
    torch.testing.assert_close(qkv, F.linear(pixels, weight, bias), atol=1e-5, rtol=1e-5)
    made = attention(*qkv.chunk(3, dim=-1))
    torch.testing.assert_close(made, F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "most", "isa"),
    [
        ({"avx", "avx2", "sse4_1"}, None, "AVX2"),
        (ONEDNN_ISAS["AVX512_CORE"] | {"avx2", "avx512_vnni", "avx512_bf16"}, None, "AVX512_CORE_BF16"),
        (ONEDNN_ISAS["AVX512_CORE_AMX"] | ONEDNN_ISAS["AVX512_CORE"] | {"avx2"}, "avx2", "AVX2"),
        (ONEDNN_ISAS["AVX512_CORE_AMX"] | ONEDNN_ISAS["AVX512_CORE"] | {"avx2"}, "ALL", "AVX512_CORE_AMX"),
        ({"asimd"}, None, "unknown"),
    ],
)
def test_the_instruction_set_is_the_best_that_is_there_and_allowed(flags: set[str], most: str | None, isa: str) -> None:
    assert onednn_isa(flags, most) == isa


def test_flags_are_those_of_the_first_processor() -> None:
    assert cpu_flags("model name\t: X\nflags\t\t: avx avx2\n\nflags\t\t: sse4_1\n") == {"avx", "avx2"}
    assert cpu_flags("") == frozenset()


def test_what_computes_on_a_cpu_is_named() -> None:
    values = computed_by(torch.device("cpu"), in_c=False)
    assert values["torch"] == torch.__version__
    assert {"device", "model", "torch_instructions", "onednn_instructions"} <= values.keys()
    assert "c_compiler" not in values


def test_the_compiler_is_named_where_functions_in_c_take_part() -> None:
    assert computed_by(torch.device("cpu"), in_c=True)["c_compiler"]


def test_a_piece_names_what_it_makes() -> None:
    assert pieces_of(torch.Size((1, 64, 1, 4, 4)), torch.float32) == [Piece(0, range(1), range(4), range(64))]
