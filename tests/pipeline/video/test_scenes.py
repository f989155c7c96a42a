"""Scenes are the same each time, show what their captions say, move, and are cut where they say so."""

from itertools import pairwise

import numpy as np
import pytest

from pipeline.video.synthetic.scenes import COLOURS, PATTERNS, SHAPES, draw_scene, scene_of

SEEDS = range(60)


def test_the_same_seed_draws_the_same_and_another_seed_something_else() -> None:
    assert np.array_equal(draw_scene(3, 64, 48, 5), draw_scene(3, 64, 48, 5))
    assert not np.array_equal(draw_scene(3, 64, 48, 5), draw_scene(3, 64, 48, 6))


@pytest.mark.parametrize("seed", range(8))
def test_a_picture_shows_the_colours_of_its_caption_and_moves(seed: int) -> None:
    shot = scene_of(seed).shots[0]
    picture = draw_scene(0, 128, 128, seed)
    for colour in (*shot.colours, *(thing.colour for thing in shot.things[-1:])):
        nearest = np.abs(picture.astype(int) - COLOURS[colour]).max(axis=-1).min()
        assert nearest <= (64 if colour in shot.colours else 2), colour
    assert np.abs(picture.astype(int) - draw_scene(6, 128, 128, seed)).mean() > 1


def test_a_scene_is_cut_at_its_frame_and_the_caption_says_so() -> None:
    seed = next(seed for seed in SEEDS if len(scene_of(seed).shots) == 2)
    cut = scene_of(seed).cut
    pictures = [draw_scene(number, 64, 64, seed).astype(int) for number in (cut - 2, cut - 1, cut)]
    before, across = (np.abs(later - first).mean() for first, later in pairwise(pictures))
    assert across > 3 * before
    assert ", then " in scene_of(seed).caption


def test_scenes_have_all_shapes_patterns_and_colours() -> None:
    captions = " ".join(scene_of(seed).caption for seed in range(400))
    assert all(word in captions for word in (*COLOURS, *SHAPES, *PATTERNS))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_an_inside_an_edge_and_an_outside(shape: str) -> None:
    y, x = np.mgrid[-1.5:1.5:60j, -1.5:1.5:60j].astype(np.float32)
    distance = SHAPES[shape](x, y)
    assert distance.min() < -0.1
    assert (distance < 0).mean() > 0.03
    assert distance[[0, -1]].min() > 0 < distance[:, [0, -1]].min()
