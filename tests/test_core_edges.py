"""Edges of an enlarged context: as sharp as the head's, and only where the context has them, too."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import map_of
from test_core_morphable import degrees, drawn

from blender_normal_inpaint.core import edges
from blender_normal_inpaint.core.harmonic import grow
from blender_normal_inpaint.core.morphable import Head
from blender_normal_inpaint.core.normals import unit
from blender_normal_inpaint.core.resample import enlarge, spread

SIZE, TIMES = 96, 6
PLACES = (np.arange(SIZE * TIMES) + 0.5) / TIMES - 0.5


def scene():
    """A head that looks aside, its context and that enlarged; where it has edges; and what it should be."""
    _, _, head = drawn(0, 5, 0.6, 0.0, size=SIZE)
    field = head.drawn(np.ones((SIZE, SIZE), np.bool_)).means()
    there = field.any(axis=-1)
    inner = (np.linalg.norm(field, axis=-1) < 0.9) & there & ~grow(~there, 4)
    near = np.kron(grow(inner, 1), np.ones((TIMES, TIMES), bool))
    truth = map_of(Head(head.family, head.view.on_grid(TIMES), (SIZE * TIMES, SIZE * TIMES), 0.0))
    return head, spread(field, there), near & truth.any(axis=-1), truth


def off(planes, truth, where):
    return degrees(unit(np.moveaxis(planes, 0, -1)), truth)[where]


def sharpened(field, head, wanted):
    before = enlarge(field, PLACES, PLACES)
    after = before.copy()
    edges.sharpen(after, field, head, PLACES, PLACES, wanted)
    return before, after


def test_edges_are_as_sharp_as_the_heads() -> None:
    head, field, near, truth = scene()
    whole = np.ones(near.shape, np.bool_)
    before, after = sharpened(field, head, whole)
    soft, sharp = off(before, truth, near), off(after, truth, near)
    assert np.count_nonzero(near) > 1000
    assert sharp.mean() < 0.5 * soft.mean(), (soft.mean(), sharp.mean())
    # Nothing is worse off for it, and what is no edge stays.
    beside = truth.any(axis=-1) & ~near
    assert off(after, truth, beside).mean() < off(before, truth, beside).mean() + 0.02
    flat = ~np.kron(grow(np.linalg.norm(field, axis=-1) < edges.SHORT, 8), np.ones((TIMES, TIMES), bool))
    assert flat.any() and np.array_equal(after[:, flat], before[:, flat])


def test_what_the_context_has_beside_the_head_stays() -> None:
    """A face that is a little elsewhere turned than the head all over: its edges are sharp, and its own."""
    head, field, near, truth = scene()
    length = np.linalg.norm(field, axis=-1, keepdims=True)
    push = np.array([0.12, 0.08, 0.0], np.float32)
    turned, expected = length * unit(unit(field) + push), unit(truth + push)
    before, after = sharpened(turned, head, np.ones(near.shape, np.bool_))
    assert off(after, expected, near).mean() < 0.6 * off(before, expected, near).mean()


@pytest.mark.parametrize("rows", [3, -3])
def test_edges_that_lie_elsewhere_stay_soft(rows: int) -> None:
    head, field, near, _ = scene()
    moved = np.roll(field, rows, axis=0)
    before, after = sharpened(moved, head, np.ones(near.shape, np.bool_))
    changed = degrees(unit(np.moveaxis(before, 0, -1)), unit(np.moveaxis(after, 0, -1)))
    whole, aligned = sharpened(field, head, np.ones(near.shape, np.bool_))
    there = degrees(unit(np.moveaxis(whole, 0, -1)), unit(np.moveaxis(aligned, 0, -1)))
    assert (changed > 2).sum() < 0.35 * (there > 2).sum(), ((changed > 2).sum(), (there > 2).sum())


def test_only_what_is_wanted_changes_and_nothing_at_the_contexts_own_size() -> None:
    head, field, near, _ = scene()
    wanted = near.copy()
    wanted[:, : SIZE * TIMES // 2] = False
    before, after = sharpened(field, head, wanted)
    assert np.array_equal(after[:, ~wanted], before[:, ~wanted]) and not np.array_equal(after, before)
    places = np.arange(SIZE, dtype=np.float64)
    same = np.ascontiguousarray(np.moveaxis(field, -1, 0))
    edges.sharpen(same, field, head, places, places, np.ones((SIZE, SIZE), np.bool_))
    assert np.array_equal(same, np.moveaxis(field, -1, 0))


def test_a_gap_is_filled_from_around_it() -> None:
    head, _, _, truth = scene()
    texels, normals, near = head.enlarged(PLACES, PLACES, np.ones(truth.shape[:2], np.bool_))
    gap = np.zeros(truth.shape[:2], np.bool_)
    middle = np.argwhere(truth.any(axis=-1)).mean(axis=0).astype(int)
    gap[middle[0] - 6 : middle[0] + 6, middle[1] - 9 : middle[1] + 9] = True
    kept = ~gap.reshape(-1)[texels]

    class Torn:
        def enlarged(self, *_: object) -> object:
            return texels[kept], normals[kept], near[kept]

    found, shown = edges._guide(Torn(), np.ones((SIZE, SIZE), np.bool_), PLACES, PLACES, gap)  # type: ignore
    assert np.unique(found).size == found.size and set(np.flatnonzero(gap)) <= set(found.tolist())
    rim = (grow(gap, 1) & ~gap).reshape(-1)[texels]
    filled = shown[gap.reshape(-1)[found]]
    assert {tuple(normal) for normal in filled} <= {tuple(normal) for normal in normals[rim]}
    inside = np.zeros((gap.size, 3), np.float32)
    inside[found] = shown
    assert degrees(inside.reshape(truth.shape), truth)[gap].mean() < 10
    # Far from any gap nothing grows.
    found, _ = edges._guide(Torn(), np.zeros((SIZE, SIZE), np.bool_), PLACES, PLACES, gap)  # type: ignore
    assert np.array_equal(found, texels[kept])
