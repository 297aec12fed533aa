"""Expressions about a synthetic scene, each true of exactly one of its objects.

Each expression has a :class:`Query` beside its text. :func:`truth` evaluates the query on every object, so that
uniqueness is checked and not assumed. There are three kinds:

    appearance  size, colour and shape identify the object
    motion      another object has the same appearance but moves differently, so one frame is not enough
    relation    another object has the same appearance but is at another place

Every expression stays true when the frames are flipped and the words "left" and "right" are swapped.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from tools.data.synthetic_scene import MOTIONS, VISIBLE_SHARE, Scene, Thing

KINDS = ("appearance", "motion", "relation")
ABSENT = "absent"  # the kind of an expression of another scene that means nothing in this one
# Axis of the position that is compared, and its sign.
RELATIONS: dict[str, tuple[int, int]] = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}
BETWEEN: dict[str, tuple[str, ...]] = {
    "left": ("the {0} left of the {1}", "the {0} to the left of the {1}"),
    "right": ("the {0} right of the {1}", "the {0} to the right of the {1}"),
    "above": ("the {0} above the {1}", "the {0} that is above the {1}"),
    "below": ("the {0} below the {1}", "the {0} that is below the {1}"),
}
EXTREME: dict[str, str] = {
    "left": "the {0} furthest to the left",
    "right": "the {0} furthest to the right",
    "above": "the {0} closest to the top",
    "below": "the {0} closest to the bottom",
}
APPEARANCE = ("the {0}", "the {0}", "{1} {0}")
MOTION = ("the {0} {1}", "the {0} {1}", "the {0} that is {1}", "{2} {0} {1}")
EXTREME_SHARE = 0.2  # of the expressions of relation; these name no second object
MOTION_SEEN = 0.75  # share of the frames in which an object must be well seen for an expression of its motion
WELL_SEEN_SHARE = 0.5


@dataclass(frozen=True)
class Words:
    """The words of appearance in an expression; None: the expression does not name the attribute."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def fit(self, thing: Thing) -> bool:
        return (
            self.size in (None, thing.size)
            and self.colour in (None, thing.colour)
            and self.shape in (None, thing.shape)
        )

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)


@dataclass(frozen=True)
class Query:
    """The meaning of an expression. ``relation`` without ``anchor``: the outermost of those that fit ``words``."""

    words: Words
    motion: str | None = None
    relation: str | None = None
    anchor: Words | None = None


@dataclass(frozen=True)
class Expression:
    """``text`` refers to object ``target`` (an index, not an id) of the scene."""

    text: str
    kind: str
    target: int
    query: Query


def _all_words(thing: Thing) -> list[Words]:
    choices = ((None, thing.size), (None, thing.colour), (None, thing.shape))
    return [Words(*choice) for choice in product(*choices)]


def truth(scene: Scene, query: Query) -> list[bool | None]:
    """Whether ``query`` holds for each object of the scene; None where a person could not be sure.

    All answers are None unless exactly one object fits ``query.anchor``.
    """
    fits = [query.words.fit(thing) for thing in scene.things]
    if query.motion is not None:
        return [fit and thing.motion == query.motion for fit, thing in zip(fits, scene.things, strict=True)]
    if query.relation is None:
        return list(fits)
    if query.anchor is not None:
        anchors = [i for i, thing in enumerate(scene.things) if query.anchor.fit(thing)]
        if len(anchors) != 1:
            return [None] * len(fits)
        return [
            fit and i != anchors[0] and scene.ahead(*RELATIONS[query.relation], i, anchors[0])
            for i, fit in enumerate(fits)
        ]
    answers: list[bool | None] = []
    for i, fit in enumerate(fits):
        leads = [scene.ahead(*RELATIONS[query.relation], i, j) for j, other in enumerate(fits) if other and j != i]
        beaten = not fit or any(lead is False for lead in leads)
        answers.append(False if beaten else None if None in leads else True)
    return answers


def only(scene: Scene, query: Query) -> int | None:
    """Index of the object for which alone ``query`` is true, if it is surely false for all others; else None."""
    answers = truth(scene, query)
    return answers.index(True) if answers.count(True) == 1 and answers.count(False) == len(answers) - 1 else None


def means_nothing(scene: Scene, query: Query) -> bool:
    """Whether the scene surely has nothing that ``query`` describes.

    A motion must differ in every part of the video, since a clip may show half of it: who goes up and then down also
    moves up.
    """
    fits = [i for i, thing in enumerate(scene.things) if query.words.fit(thing)]
    if query.motion is not None:
        return all(_ways(query.motion).isdisjoint(_ways(scene.things[i].motion)) for i in fits)
    if query.anchor is None:
        return not fits  # the outermost of those that fit is always there
    anchors = [i for i, thing in enumerate(scene.things) if query.anchor.fit(thing)]
    pairs = [(i, anchor) for i, anchor in product(fits, anchors) if i != anchor]
    return all(scene.ahead(*RELATIONS[query.relation], *pair) is False for pair in pairs)


def _ways(motion: str) -> set[tuple[int, int]]:
    """The directions in which an object moves in some part of the video; (0, 0) where it stands."""
    (x, y), turns, _ = MOTIONS[motion]
    return {(x, y), (-x, -y)} if turns else {(x, y)}


def _names(scene: Scene) -> list[list[Words]]:
    """For each object, the words that fit no other object."""
    return [[words for words in _all_words(thing) if sum(map(words.fit, scene.things)) == 1] for thing in scene.things]


def _queries(scene: Scene, target: int, names: list[list[Words]]) -> dict[str, list[Query]]:
    """All queries that are true of ``target`` alone, by kind."""
    thing, others = scene.things[target], [i for i in range(len(scene.things)) if i != target]
    seen = (scene.shares >= VISIBLE_SHARE).mean(axis=1)
    well_seen = (scene.shares >= WELL_SEEN_SHARE).mean(axis=1)
    found: dict[str, list[Query]] = {kind: [] for kind in KINDS}
    similar = any(scene.things[i].colour == thing.colour or scene.things[i].shape == thing.shape for i in others)

    def add(kind: str, *alike: Query) -> None:
        """Adds queries that differ only in the words for the anchor, so checking one of them is enough."""
        if only(scene, alike[0]) == target:
            found[kind] += alike

    for words in _all_words(thing) if similar else ():
        rivals = [i for i in others if words.fit(scene.things[i])]
        if not rivals:
            add("appearance", Query(words))
            continue
        if all(well_seen[i] >= MOTION_SEEN for i in (target, *rivals)):
            add("motion", Query(words, motion=thing.motion))
        if seen[target] < 1:
            continue
        for relation in RELATIONS:
            add("relation", Query(words, relation=relation))
            for anchor in (i for i in others if names[i] and seen[i] == 1):
                # the relation is needed only if an object other than the anchor fits the same words
                if set(rivals) - {anchor} and scene.ahead(*RELATIONS[relation], target, anchor):
                    add("relation", *(Query(words, relation=relation, anchor=name) for name in names[anchor]))
    return found


def _phrase(query: Query, rng: np.random.Generator) -> str:
    article = "an" if str(query.words).startswith("o") else "a"
    if query.motion is not None:
        return str(rng.choice(MOTION)).format(query.words, query.motion, article)
    if query.relation is None:
        return str(rng.choice(APPEARANCE)).format(query.words, article)
    if query.anchor is None:
        return EXTREME[query.relation].format(query.words)
    return str(rng.choice(BETWEEN[query.relation])).format(query.words, query.anchor)


def draw_expressions(scene: Scene, rng: np.random.Generator) -> list[Expression] | None:
    """One or two expressions of appearance, two of motion and two of relation; None when the scene has too few.

    A still image, which shows no motion, has three of appearance and three of relation. The objects take turns as
    targets, so that the target cannot be guessed from the kind of the expression.
    """
    names = _names(scene)
    queries = [_queries(scene, target, names) for target in range(len(scene.things))]
    if len(scene.labels) == 1:
        counts = {"appearance": 3, "relation": 3}
    else:
        counts = {"appearance": int(rng.integers(1, 3)), "motion": 2, "relation": 2}
    chosen: list[Expression] = []
    for kind, count in counts.items():
        turn = rng.permutation(len(queries)).tolist()
        for _ in range(count):
            extreme = kind == "relation" and rng.random() < EXTREME_SHARE
            pools = {
                target: [
                    query
                    for query in queries[target][kind]
                    if (kind != "relation" or (query.anchor is None) == extreme)
                    and all(query != old.query for old in chosen)
                ]
                for target in turn
            }
            target = next((target for target in turn if pools[target]), None)
            if target is None:
                return None
            turn.remove(target)
            turn.append(target)
            query = pools[target][rng.integers(len(pools[target]))]
            chosen.append(Expression(_phrase(query, rng), kind, target, query))
    return chosen
