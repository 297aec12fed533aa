"""Scenes of the synthetic data set: the objects of a video, their positions in each frame, and their visible parts.

Shapes of arrays: ``n`` objects, ``F`` frames, ``H`` x ``W`` pixels. Positions are (x, y) in pixels with the y axis
pointing down; a pixel covers ``[i, i + 1)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

# Hues are at least 45 degrees apart, so that the usual colour augmentation does not turn one colour into another.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "yellow": (235, 215, 45),
    "green": (45, 165, 60),
    "cyan": (50, 205, 215),
    "blue": (45, 80, 220),
    "purple": (160, 55, 190),
    "white": (238, 238, 238),
}
RADII: dict[str, tuple[float, float]] = {"small": (8.0, 9.0), "big": (15.0, 17.0)}  # pixels of a 96 x 160 frame
REFERENCE_SIZE = (96, 160)

# Of each motion: unit direction of its first half, whether it turns back at the middle, and its probability.
MOTIONS: dict[str, tuple[tuple[int, int], bool, float]] = {
    "moving to the left": ((-1, 0), False, 0.13),
    "moving to the right": ((1, 0), False, 0.13),
    "moving up": ((0, -1), False, 0.12),
    "moving down": ((0, 1), False, 0.12),
    "standing still": ((0, 0), False, 0.14),
    "going up and then down": ((0, -1), True, 0.09),
    "going down and then up": ((0, 1), True, 0.09),
    "going left and then right": ((-1, 0), True, 0.09),
    "going right and then left": ((1, 0), True, 0.09),
}


def _ring(count: int, radii: tuple[float, ...], start: float) -> np.ndarray:
    angles = start + np.arange(count) * 2 * math.pi / count
    length = np.resize(radii, count)
    return np.stack([length * np.cos(angles), length * np.sin(angles)], axis=1)


_ARM, _HALF = 1.2, 0.42
# Outlines around their centre of mass, scaled so that all shapes of the same radius have a similar area.
SHAPES: dict[str, np.ndarray] = {
    "circle": _ring(48, (1.0,), 0.0),
    "square": _ring(4, (1.27,), math.pi / 4),
    "triangle": _ring(3, (1.45,), -math.pi / 2),
    "star": _ring(10, (1.5, 0.62), -math.pi / 2),
    "cross": np.array(
        [(_ARM, _HALF), (_HALF, _HALF), (_HALF, _ARM), (-_HALF, _ARM), (-_HALF, _HALF), (-_ARM, _HALF)]
        + [(-_ARM, -_HALF), (-_HALF, -_HALF), (-_HALF, -_ARM), (_HALF, -_ARM), (_HALF, -_HALF), (_ARM, -_HALF)]
    ),
}


def _centred(points: np.ndarray, area: float) -> np.ndarray:
    """An outline around its centre of mass, with this area."""
    (x, y), (next_x, next_y) = points.T, np.roll(points, -1, axis=0).T
    cross = x * next_y - next_x * y
    centre = np.array([((x + next_x) * cross).sum(), ((y + next_y) * cross).sum()]) / (3 * cross.sum())
    return (points - centre) * math.sqrt(2 * area / abs(cross.sum()))


def _heart() -> np.ndarray:
    t = np.arange(48) * 2 * math.pi / 48
    return np.stack(
        [16 * np.sin(t) ** 3, 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t) - 13 * np.cos(t)], axis=1
    )


def _hollow(radius: float = 0.5) -> np.ndarray:
    """A circle of radius 1 with a round hole. A cut from the rim joins both outlines into one."""
    outer, inner = _ring(48, (1.0,), 0.0), _ring(48, (radius,), 0.0)
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


# Things for a model to learn that knows the others.
NEW_COLOURS: dict[str, tuple[int, int, int]] = {
    "orange": (240, 130, 25),
    "pink": (250, 140, 190),
    "black": (22, 22, 26),
}
NEW_SHAPES: dict[str, np.ndarray] = {
    "heart": _centred(_heart(), 2.7),
    "ring": _centred(_hollow(), 3.0),
    "bar": _centred(np.array([(-1.4, -0.42), (1.4, -0.42), (1.4, 0.42), (-1.4, 0.42)]), 2.3),
}
_RGB, _OUTLINES = COLOURS | NEW_COLOURS, SHAPES | NEW_SHAPES
_REACH = 1.5  # the farthest vertex of any shape


@dataclass(frozen=True)
class Stock:
    """The colours and shapes from which the objects of a scene are drawn."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]


KNOWN = Stock(tuple(COLOURS), tuple(SHAPES))
NEW = Stock(tuple(NEW_COLOURS), tuple(NEW_SHAPES))


# share of an object's area that must be inside the frame and not covered for the object to count as seen
VISIBLE_SHARE = 0.3
# share that must be visible to recognise size and shape; every object of a video has two such frames
KNOWN_SHARE = 0.8
# of objects that may leave: the share that does, for which share of the frames, and the centre that they then have
LEAVING = 0.6
AWAY_SHARE = (0.15, 0.4)
AWAY = -10_000.0
MARGIN = 0.12  # share of the frame's width or height by which a relation has to hold, or to be false
_SUPERSAMPLE = 4
_SHIFT = 4  # fractional bits of cv2.fillPoly


@dataclass(frozen=True)
class Thing:
    """One object: the attributes that expressions name, and how it is drawn.

    ``radius`` in pixels; ``rgb`` in 0..255; ``angle`` in radians; ``shading`` is the change of brightness over one
    radius along x and y.
    """

    size: str
    colour: str
    shape: str
    motion: str
    radius: float = 0.0
    rgb: tuple[float, float, float] = (0.0, 0.0, 0.0)
    angle: float = 0.0
    shading: tuple[float, float] = (0.0, 0.0)

    def outline(self) -> np.ndarray:
        """``[vertices, 2]`` relative to the centre, in pixels."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.radius * _OUTLINES[self.shape] @ np.array([[cos, sin], [-sin, cos]])


@dataclass(frozen=True)
class Patch:
    """The pixels that an object covers in a frame: ``alpha`` in [0, 1], whose upper left is at ``corner`` (x, y)."""

    corner: tuple[int, int]
    alpha: np.ndarray

    def crop(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
        """Slices of the frame and of the patch for their common pixels; None if the patch is outside the frame."""
        (x, y), side = self.corner, self.alpha.shape[0]
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
        if left >= right or top >= bottom:
            return None
        return (slice(top, bottom), slice(left, right)), (slice(top - y, bottom - y), slice(left - x, right - x))


@dataclass(frozen=True)
class Scene:
    """A video before it is painted. ``things[i]`` has the object id ``i + 1``.

    Attributes:
        things: the ``n`` objects.
        paths: ``[n, F, 2]`` centres, in and out of the frame; ``AWAY`` where an object has left.
        depth: indices of the objects, the farthest first.
        labels: uint8 ``[F, H, W]``, id of the object seen at each pixel, 0 for the background.
        shares: ``[n, F]`` share of each object's area that is seen.
        centroids: ``[n, F, 2]`` centre of mass of the seen part, NaN where nothing is seen.
        covers: the patch of each object in each frame, ``[n][F]``.
    """

    things: tuple[Thing, ...]
    paths: np.ndarray
    depth: tuple[int, ...]
    labels: np.ndarray
    shares: np.ndarray
    centroids: np.ndarray
    covers: list[list[Patch]]

    def seen(self, share: float) -> np.ndarray:
        """``[n]``: of the frames that an object has not left, the part in which this share of its area is seen."""
        there = (self.paths != AWAY).any(axis=2)
        return ((self.shares >= share) & there).sum(axis=1) / there.sum(axis=1)

    @cached_property
    def _ahead(self) -> list[list[list[bool | None]]]:
        """``[axis][first][second]``: whether object first has a greater coordinate than object second."""
        size = np.array(self.labels.shape[:0:-1])
        leads = (self.centroids[:, None] - self.centroids[None]) / size
        hidden = np.isnan(leads)
        least = np.where(hidden, np.inf, leads).min(axis=2)
        greatest = np.where(hidden, -np.inf, leads).max(axis=2)
        both_seen = least <= greatest
        surely = both_seen & (least >= MARGIN)
        surely_not = both_seen & (greatest <= -MARGIN) & ~surely
        return np.select([surely, surely_not], [True, False], None).transpose(2, 0, 1).tolist()

    def ahead(self, axis: int, sign: int, first: int, second: int) -> bool | None:
        """Whether object ``first`` is on the ``sign`` side of ``second`` along ``axis`` (0: x, 1: y) in all frames that
        show both; None if unclear, or if no frame shows both."""
        return self._ahead[axis][first][second] if sign > 0 else self._ahead[axis][second][first]


def frame_scale(size: tuple[int, int]) -> float:
    """The scale of a frame of (height, width) ``size``, relative to :data:`REFERENCE_SIZE`."""
    return min(size[0] / REFERENCE_SIZE[0], size[1] / REFERENCE_SIZE[1])


def cover(thing: Thing, centre: np.ndarray, *, rim: bool = True) -> Patch:
    """The anti-aliased pixels of ``thing`` at ``centre``, with or without its rim, on a patch that holds them all."""
    half = math.ceil(thing.radius * _REACH) + 2
    corner = np.floor(centre).astype(int) - half
    side = (2 * half + 1) * _SUPERSAMPLE
    scale = 1.0 if rim else 1.0 - max(1.0, 0.12 * thing.radius) / thing.radius
    points = (scale * thing.outline() + centre - corner) * _SUPERSAMPLE - 0.5
    canvas = np.zeros((side, side), np.uint8)
    cv2.fillPoly(canvas, [np.round(points * 2**_SHIFT).astype(np.int32)], 255, cv2.LINE_8, _SHIFT)
    alpha = cv2.resize(canvas, None, fx=1 / _SUPERSAMPLE, fy=1 / _SUPERSAMPLE, interpolation=cv2.INTER_AREA) / 255.0
    return Patch((int(corner[0]), int(corner[1])), alpha)


def _draw_motion(rng: np.random.Generator, other_than: str = "") -> str:
    names = [name for name in MOTIONS if name != other_than]
    weights = np.array([MOTIONS[name][2] for name in names])
    return str(rng.choice(names, p=weights / weights.sum()))


def _mutated(thing: Thing, attribute: str, stock: Stock, rng: np.random.Generator) -> Thing:
    if attribute == "motion":
        return replace(thing, motion=_draw_motion(rng, thing.motion))
    table = {"size": RADII, "colour": stock.colours, "shape": stock.shapes}[attribute]
    return replace(thing, **{attribute: str(rng.choice([v for v in table if v != getattr(thing, attribute)]))})


def _draw_attributes(stock: Stock, rng: np.random.Generator) -> list[Thing]:
    """3 to 5 objects, each made from an earlier one by changing one attribute, sometimes two."""
    things = [
        Thing(
            str(rng.choice(list(RADII))),
            str(rng.choice(stock.colours)),
            str(rng.choice(stock.shapes)),
            _draw_motion(rng),
        )
    ]
    count = int(rng.integers(3, 6))
    while len(things) < count:
        attributes = rng.choice(
            ["motion", "colour", "shape", "size"], 1 if rng.random() < 0.7 else 2, False, [0.36, 0.25, 0.25, 0.14]
        )
        thing = things[rng.integers(len(things))]
        for attribute in attributes:
            thing = _mutated(thing, str(attribute), stock, rng)
        if thing not in things:
            things.append(thing)
    return [things[i] for i in rng.permutation(count)]


def _draw_looks(thing: Thing, scale: float, rng: np.random.Generator) -> Thing:
    rgb = np.clip(np.array(_RGB[thing.colour]) + rng.uniform(-12, 12, 3), 0, 255)
    return replace(
        thing,
        radius=float(rng.uniform(*RADII[thing.size]) * scale),
        rgb=tuple(rgb.tolist()),
        angle=float(rng.uniform(-0.14, 0.14)),
        shading=tuple(rng.uniform(-0.12, 0.12, 2).tolist()),
    )


def _offsets(motion: str, frames: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """``[F, 2]`` positions relative to the middle of the path.

    A path that turns back does so between the two middle frames, so every clip of more than half the video shows it.
    """
    direction, turns, _ = MOTIONS[motion]
    if motion == "standing still":
        return np.zeros((frames, 2))
    time = np.arange(frames) - (frames - 1) / 2
    # slower per frame in longer videos, so that the whole path fits into the frame
    pace = scale * min(1.0, 8 / frames)
    speed = rng.uniform(4.0, 5.0) if turns else rng.uniform(3.0, 5.0)
    along = np.abs(time[0]) / 2 - np.abs(time) if turns else time
    axis = np.array(direction, float)
    slope = rng.uniform(-0.08, 0.08) * axis[::-1]
    return pace * (speed * along[:, None] * (axis + slope) + rng.normal(0, 0.15, (frames, 2)))


def _draw_middle(thing: Thing, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Centre (x, y) of an object's path; straight paths often cross the border of the frame."""
    extent = np.array(size[::-1], float)
    middle = rng.uniform(1.1 * thing.radius, extent - 1.1 * thing.radius)
    (x, y), turns, _ = MOTIONS[thing.motion]
    if not turns and (x or y) and rng.random() < 0.3:
        axis = 0 if x else 1
        inside = rng.uniform(-0.1, 0.6) * thing.radius
        middle[axis] = inside if rng.random() < 0.5 else extent[axis] - inside
    return middle


def _leave(path: np.ndarray, rng: np.random.Generator) -> None:
    """Takes an object, or not, out of the picture for some frames within its ``path [F, 2]``, as a cut does."""
    if rng.random() >= LEAVING:
        return
    frames = len(path)
    away = max(1, round(rng.uniform(*AWAY_SHARE) * frames))
    first = int(rng.integers(1, frames - away))
    path[first : first + away] = AWAY


def draw_scene(
    rng: np.random.Generator, frames: int, size: tuple[int, int], leave: bool = False, stock: Stock = KNOWN
) -> Scene | None:
    """A random scene of (height, width) ``size``; None if objects do not fit or one would be hidden for too long.

    With ``leave`` some objects leave the picture and return.
    """
    scale = frame_scale(size)
    things = [_draw_looks(thing, scale, rng) for thing in _draw_attributes(stock, rng)]
    offsets = [_offsets(thing.motion, frames, scale, rng) for thing in things]
    middles: list[np.ndarray] = []
    for thing in things:
        for _ in range(20):
            middle = _draw_middle(thing, size, rng)
            if all(
                math.dist(middle, placed) > 0.8 * (thing.radius + other.radius)
                for placed, other in zip(middles, things, strict=False)
            ):
                break
        else:
            return None
        middles.append(middle)
    paths = np.stack([middle + offset for middle, offset in zip(middles, offsets, strict=True)])
    for path in paths if leave else ():
        _leave(path, rng)
    scene = _look(tuple(things), paths, tuple(rng.permutation(len(things)).tolist()), size)
    seen = scene.seen(VISIBLE_SHARE)
    known = (scene.shares >= KNOWN_SHARE).sum(axis=1)
    return scene if (seen >= 0.5).all() and (known >= min(2, frames)).all() else None


def _look(things: tuple[Thing, ...], paths: np.ndarray, depth: tuple[int, ...], size: tuple[int, int]) -> Scene:
    count, frames, _ = paths.shape
    labels = np.zeros((frames, *size), np.uint8)
    areas = np.zeros((count, frames))
    covers = [[cover(thing, centre) for centre in path] for thing, path in zip(things, paths, strict=True)]
    for t in range(frames):
        for i in depth:
            patch = covers[i][t]
            solid = patch.alpha >= 0.5
            areas[i, t] = solid.sum()
            if (places := patch.crop(*size)) is not None:
                labels[t][places[0]][solid[places[1]]] = i + 1
    seen = np.zeros((count, frames))
    centroids = np.full((count, frames, 2), np.nan)
    for i, t in np.ndindex(count, frames):
        y, x = np.nonzero(labels[t] == i + 1)
        seen[i, t] = len(x)
        if len(x):
            centroids[i, t] = x.mean() + 0.5, y.mean() + 0.5
    return Scene(things, paths, depth, labels, seen / areas, centroids, covers)
