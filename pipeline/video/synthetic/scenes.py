"""Scenes that the project draws itself, with captions: shapes and letters that move over moving patterns, and cuts.

`make_video(..., draw=draw_scene)` makes a film of one; examples/train_tiny_vae.py trains on their pictures.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.records import Uint8Frames

Plane = npt.NDArray[Any]  # `h w`
Piece = tuple[slice, slice]  # rows and columns
SCENE_FPS = 16.0
COLOURS = {
    "red": (214, 48, 49),
    "orange": (230, 126, 34),
    "yellow": (241, 206, 60),
    "green": (39, 160, 80),
    "teal": (60, 190, 190),
    "blue": (41, 98, 200),
    "purple": (130, 60, 170),
    "pink": (240, 140, 190),
    "white": (240, 240, 240),
    "grey": (125, 125, 125),
    "black": (24, 24, 24),
}
# Ends of each stroke: x0, y0, x1, y1, downwards
LETTERS = {
    "A": ((-0.6, 0.8, 0, -0.8), (0, -0.8, 0.6, 0.8), (-0.35, 0.25, 0.35, 0.25)),
    "F": ((-0.5, 0.8, -0.5, -0.8), (-0.5, -0.8, 0.5, -0.8), (-0.5, 0, 0.35, 0)),
    "H": ((-0.5, -0.8, -0.5, 0.8), (0.5, -0.8, 0.5, 0.8), (-0.5, 0, 0.5, 0)),
    "K": ((-0.5, -0.8, -0.5, 0.8), (0.5, -0.8, -0.5, 0.1), (-0.2, -0.1, 0.55, 0.8)),
    "L": ((-0.45, -0.8, -0.45, 0.8), (-0.45, 0.8, 0.5, 0.8)),
    "N": ((-0.5, 0.8, -0.5, -0.8), (-0.5, -0.8, 0.5, 0.8), (0.5, 0.8, 0.5, -0.8)),
    "T": ((-0.6, -0.8, 0.6, -0.8), (0, -0.8, 0, 0.8)),
    "X": ((-0.6, -0.8, 0.6, 0.8), (0.6, -0.8, -0.6, 0.8)),
    "Z": ((-0.55, -0.8, 0.55, -0.8), (0.55, -0.8, -0.55, 0.8), (-0.55, 0.8, 0.55, 0.8)),
}
STROKE = 0.2  # half the width of a letter's strokes


def _letter(strokes: tuple[tuple[float, float, float, float], ...]) -> Callable[[Plane, Plane], Plane]:
    def distance(x: Plane, y: Plane) -> Plane:
        planes = []
        for x0, y0, x1, y1 in strokes:
            dx, dy = x1 - x0, y1 - y0
            along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
            planes.append(np.hypot(x - x0 - along * dx, y - y0 - along * dy))
        outside: Plane = np.minimum.reduce(planes) - STROKE
        return outside

    return distance


def _triangle(x: Plane, y: Plane) -> Plane:
    outside: Plane = np.maximum.reduce([y, 0.866 * x - 0.5 * y, -0.866 * x - 0.5 * y]) - 0.5
    return outside


def _cross(x: Plane, y: Plane) -> Plane:
    x, y = np.abs(x), np.abs(y)
    outside: Plane = np.minimum(np.maximum(x - 0.85, y - 0.3), np.maximum(x - 0.3, y - 0.85))
    return outside


# How far a point is outside of a shape whose half is about 1 long: negative inside
SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": lambda x, y: np.hypot(x, y) - 0.8,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.65) - 0.2,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.7,
    "triangle": _triangle,
    "cross": _cross,
    **{f"letter {name}": _letter(strokes) for name, strokes in LETTERS.items()},
}
# Between -1 and 1, of two axes in radians
PATTERNS: dict[str, Callable[[Plane, Plane], Plane]] = {
    "stripes": lambda x, y: np.sin(x),
    "checks": lambda x, y: np.sin(x) * np.sin(y) * 1.5,
    "rings": lambda x, y: np.sin(np.hypot(x, y)),
    "waves": lambda x, y: np.sin(x + 1.5 * np.sin(0.5 * y)),
    "clouds": lambda x, y: 0.5 * (np.sin(0.6 * x + np.sin(0.5 * y)) + np.sin(0.5 * y + 1.3 * np.sin(0.4 * x))),
}


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape on its way around an ellipse; lengths in the picture's shorter side, angles in radians."""

    shape: str
    colour: str
    size: float
    phase: float
    speed: float  # radians per second
    reach: tuple[float, float]
    turn: float  # radians per second

    @property
    def caption(self) -> str:
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Shot:
    """Things over a pattern of two colours, which drifts."""

    things: tuple[Thing, ...]
    pattern: str
    colours: tuple[str, str]
    waves: float  # along the picture's shorter side
    angle: float
    drift: float  # radians per second
    sharpness: float  # of the pattern's edges

    @property
    def caption(self) -> str:
        things = " and ".join(thing.caption for thing in self.things)
        verb = "move" if len(self.things) > 1 else "moves"
        return f"{things} {verb} over {self.colours[0]} and {self.colours[1]} {self.pattern}"


@dataclass(frozen=True, slots=True)
class Scene:
    """One shot, or two with a cut between them at the frame `cut`."""

    shots: tuple[Shot, ...]
    cut: int

    @property
    def caption(self) -> str:
        return ", then ".join(shot.caption for shot in self.shots)


def scene_of(seed: int) -> Scene:
    """The scene of a seed, the same each time."""
    rng = np.random.default_rng(seed)
    shots = tuple(_shot(rng) for _ in range(2 if rng.random() < 0.25 else 1))
    return Scene(shots, int(rng.integers(8, 32)))


def draw_scene(number: int, width_px: int, height_px: int, seed: int = 0, piece: Piece = np.s_[:, :]) -> Uint8Frames:
    """`h w c`: a piece of a frame of the scene of a seed, which is SCENE_FPS frames a second."""
    scene = scene_of(seed)
    shot = scene.shots[-1 if number >= scene.cut else 0]
    side_px, seconds = min(width_px, height_px), number / SCENE_FPS
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float32)[(slice(None), *piece)]
    x, y = (x - width_px / 2) / side_px, (y - height_px / 2) / side_px
    picture = _backdrop(shot, x, y, seconds)
    for thing in shot.things:
        cover = _cover(thing, x, y, seconds, side_px)[..., None]
        picture += cover * (_rgb(thing.colour) - picture)
    return (picture + 0.5).astype(np.uint8)


def _shot(rng: np.random.Generator) -> Shot:
    colours = [str(name) for name in rng.permutation(list(COLOURS))]
    things = tuple(_thing(rng, colours.pop()) for _ in range(int(rng.integers(1, 3))))
    return Shot(
        things,
        pattern=str(rng.choice(list(PATTERNS))),
        colours=(colours.pop(), colours.pop()),
        waves=rng.uniform(0.6, 2.5),
        angle=rng.uniform(0, 2 * math.pi),
        drift=rng.uniform(-3, 3),
        sharpness=rng.choice([0.5, 1.5, 3.0]),
    )


def _thing(rng: np.random.Generator, colour: str) -> Thing:
    return Thing(
        shape=str(rng.choice(list(SHAPES))),
        colour=colour,
        size=rng.uniform(0.12, 0.32),
        phase=rng.uniform(0, 2 * math.pi),
        speed=rng.uniform(-2, 2),
        reach=(rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.4)),
        turn=rng.choice([0, rng.uniform(-1.5, 1.5)]),
    )


def _backdrop(shot: Shot, x: Plane, y: Plane, seconds: float) -> Plane:
    """`h w c`"""
    along, across = _turned(x, y, shot.angle)
    radians = 2 * math.pi * shot.waves
    levels = PATTERNS[shot.pattern](radians * along + shot.drift * seconds, radians * across)
    share = np.clip(0.5 + 0.5 * shot.sharpness * levels, 0, 1)[..., None]
    first, second = (_rgb(colour) for colour in shot.colours)
    mixed: Plane = first + share * (second - first)
    return mixed


def _cover(thing: Thing, x: Plane, y: Plane, seconds: float, side_px: int) -> Plane:
    """How much of each pixel a thing covers."""
    at = thing.phase + thing.speed * seconds
    x, y = x - thing.reach[0] * math.cos(at), y - thing.reach[1] * math.sin(at)
    x, y = _turned(x / thing.size, y / thing.size, thing.turn * seconds)
    cover: Plane = np.clip(0.5 - SHAPES[thing.shape](x, y) * thing.size * side_px, 0, 1)
    return cover


def _turned(x: Plane, y: Plane, angle: float) -> tuple[Plane, Plane]:
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _rgb(colour: str) -> Plane:
    return np.array(COLOURS[colour], np.float32)
