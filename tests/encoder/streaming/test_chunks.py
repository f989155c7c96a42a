"""The chunk plan and the spec: pure rules over frame counts and picture sizes."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder import LatentSpec, chunk_plan, names, spec_of
from encoder.streaming.chunks import causal_plan


@pytest.mark.parametrize(
    ("frames", "plan"),
    [
        (1, (1,)),
        (5, (5,)),
        (9, (9,)),
        (13, (13,)),
        (17, (9, 8)),
        (21, (13, 8)),
        (33, (9, 8, 8, 8)),
        (49, (9, *[8] * 5)),
    ],
)
def test_a_clip_is_cut_as_diffusers_cuts_it(frames: int, plan: tuple[int, ...]) -> None:
    assert chunk_plan(frames, 8) == plan


@pytest.mark.parametrize("chunk_frames", [4, 8, 12, 16])
def test_every_plan_covers_its_clip_and_only_the_first_chunk_has_the_extra_frame(chunk_frames: int) -> None:
    for frames in range(1, 200, 4):
        first, *later = chunk_plan(frames, chunk_frames)
        assert first + sum(later) == frames
        assert first % 4 == 1
        assert set(later) <= {chunk_frames}


@pytest.mark.parametrize("frames", [-3, 0, 2, 3, 4, 6, 48])
def test_an_illegal_frame_count_has_no_plan(frames: int) -> None:
    with pytest.raises(ValueError, match=r"1 \+ 4k frames"):
        chunk_plan(frames, 8)


@pytest.mark.parametrize("chunk_frames", [-4, 0, 1, 6, 9])
def test_chunks_that_would_split_a_latent_frame_are_refused_with_the_rule(chunk_frames: int) -> None:
    with pytest.raises(ValueError, match="multiple of the encoder's temporal ratio: 4, 8, 12"):
        chunk_plan(17, chunk_frames)


def test_legal_counts_are_one_and_multiples_of_the_ratio() -> None:
    spec = spec_of("cogvideox")
    assert [n for n in range(-3, 18) if spec.is_legal_frames(n)] == [1, 5, 9, 13, 17]


def test_trimming_gives_the_largest_legal_count_that_fits() -> None:
    spec = spec_of("cogvideox")
    assert [spec.trim_frames(n) for n in (1, 4, 5, 8, 48, 49, 52)] == [1, 1, 5, 5, 45, 49, 49]
    with pytest.raises(ValueError, match="at least 1"):
        spec.trim_frames(0)


def test_the_latent_shape_of_a_published_clip_is_known() -> None:
    assert spec_of("cogvideox").latent_shape(49, 480, 720) == (16, 13, 60, 90)


def test_an_illegal_frame_count_is_refused_with_its_neighbours() -> None:
    with pytest.raises(ValueError, match=r"cannot encode 48 frames: .* 45 or 49"):
        spec_of("cogvideox").latent_shape(48, 480, 720)


@pytest.mark.parametrize(("height_px", "width_px"), [(481, 720), (480, 724), (0, 64), (64, 4)])
def test_a_picture_that_is_no_multiple_of_the_ratio_is_refused_with_the_rule(height_px: int, width_px: int) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        spec_of("cogvideox").latent_shape(49, height_px, width_px)


def test_every_name_has_a_spec_but_the_adapter_whose_folder_tells() -> None:
    assert {"cogvideox", "tiny", "wan", "wan2.2", "simulated"} < set(names())
    assert all(isinstance(spec_of(name), LatentSpec) for name in names() if name != "diffusers")
    with pytest.raises(ValueError, match="are described by its folder"):
        spec_of("diffusers")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown encoder 'cogvideo': did you mean cogvideox\? use one of"):
        spec_of("cogvideo")


def test_names_shapes_and_plans_need_no_torch() -> None:
    code = "import sys, encoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(steps=st.integers(0, 60), chunk_steps=st.integers(1, 6), ratio=st.sampled_from([1, 4, 6, 8]))
def test_even_chunks_are_whole_latent_frames_of_nearly_one_size_and_bounded(
    steps: int, chunk_steps: int, ratio: int
) -> None:
    frames, chunk_frames = 1 + steps * ratio, chunk_steps * ratio
    first, *later = chunk_plan(frames, chunk_frames, ratio, "even")
    sizes = [first - 1, *later]
    assert sum(sizes) == frames - 1
    assert all(size % ratio == 0 and size <= chunk_frames for size in sizes)
    assert max(sizes) - min(sizes) <= ratio
    assert len(sizes) == max(1, -(-(frames - 1) // chunk_frames))


def test_an_even_plan_bounds_the_first_chunk_that_diffusers_lets_grow() -> None:
    assert chunk_plan(13, 8, plan="diffusers") == (13,)
    assert chunk_plan(13, 8, plan="even") == (9, 4)


def test_the_causal_plan_is_the_first_frame_and_then_one_latent_frame_at_a_time() -> None:
    assert causal_plan(1, 4) == (1,)
    assert causal_plan(13, 4) == (1, 4, 4, 4)


def test_an_unknown_plan_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="chunk_plan is 'odd', but it must be one of: diffusers, even"):
        chunk_plan(13, 8, plan="odd")
