"""Edges of an enlarged context: as sharp as the head's, and only where the context has them, too."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import map_of
from test_core_morphable import degrees, drawn

from blender_normal_inpaint.core import edges
from blender_normal_inpaint.core.harmonic import grow
from blender_normal_inpaint.core.head import Head
from blender_normal_inpaint.core.normals import unit
from blender_normal_inpaint.core.resample import enlarge, spread

SIZE, TIMES = 96, 6
PLACES = (np.arange(SIZE * TIMES) + 0.5) / TIMES - 0.5


def scene():
    """A head that looks aside, its context and that enlarged; where it has edges; and what it should be.

    In its gaps nothing tells what should be.
    """
    _, _, head = drawn(0, 5, 0.6, 0.0, size=SIZE)
    picture = head.drawn(np.ones((SIZE, SIZE), np.bool_))
    field = picture.means
    there = field.any(axis=-1)
    inner = (np.linalg.norm(field, axis=-1) < 0.9) & there & ~grow(~there, 4) & ~grow(picture.gaps, 2)
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


def test_a_gap_is_a_side_of_its_own() -> None:
    """A nostril: what the context has in the head's gap ends at its rim, as sharply as the head does."""
    head, _, _, truth = scene()
    gap, opening = np.zeros((SIZE, SIZE), np.bool_), np.zeros(truth.shape[:2], np.bool_)
    row, column = np.argwhere(truth.any(axis=-1)).mean(axis=0).astype(int)
    # Its rim lies amid the context's texels.
    opening[row - 3 : row + 4, column - 20 : column + 21] = True
    gap[row // TIMES, column // TIMES - 3 : column // TIMES + 4] = True
    texels, normals = head.enlarged(PLACES, PLACES, np.ones(opening.shape, np.bool_))
    kept = ~opening.reshape(-1)[texels]

    class Torn:
        def enlarged(self, *_: object) -> object:
            return texels[kept], normals[kept]

    found, shown = edges._guide(Torn(), gap, PLACES, PLACES, np.ones(opening.shape, np.bool_))  # type: ignore
    inside = np.full((opening.size, 3), np.nan, np.float32)
    inside[found] = shown
    inside = inside.reshape(*opening.shape, 3)
    assert np.unique(found).size == found.size and not inside[opening].any()
    assert np.array_equal(found[: -opening.sum()], texels[kept])
    # What differs between guide and context is taken from a place's own side alone.
    layers = np.zeros((SIZE, SIZE, 7), np.float32)
    layers[..., 0], layers[..., 6] = 1, 1
    layers[gap] = 0, 0, 0, 0, 0.6, 0.8, -1
    layers = np.pad(layers, [(edges.REACH, edges.REACH)] * 2 + [(0, 0)])
    rows, columns = np.nonzero(opening)
    places = PLACES[rows], PLACES[columns]
    there, enough = edges._beside(layers, np.zeros((rows.size, 3), np.float32), *places)
    assert np.allclose(there, (0, 0.6, 0.8), atol=1e-5) and (enough == 1).all()
    there, _ = edges._beside(layers, np.tile(np.array([1, 0, 0], np.float32), (rows.size, 1)), *places)
    assert not there.any()
