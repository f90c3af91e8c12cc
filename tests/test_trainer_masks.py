"""Masks: seeded, of a sensible size, and never everything."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cv2", reason="the trainer draws masks with OpenCV")

from trainer.masks import DEFAULT_WEIGHTS, STYLES, draw_mask, relief

SIZE = 96
FACE = np.hypot(*(np.mgrid[:SIZE, :SIZE] - SIZE / 2)) < SIZE * 0.4


@pytest.mark.parametrize("style", sorted(STYLES))
def test_each_style_hides_some_and_leaves_some(style: str) -> None:
    shares = []
    for seed in range(12):
        mask = STYLES[style](np.random.default_rng(seed), SIZE, (SIZE / 2, SIZE / 2))
        assert mask.shape == (SIZE, SIZE) and mask.dtype == np.bool_
        assert np.array_equal(mask, STYLES[style](np.random.default_rng(seed), SIZE, (SIZE / 2, SIZE / 2)))
        shares.append(mask.mean())
    assert 0.005 < np.mean(shares) < 0.6
    assert np.ptp(shares) > 0


def test_size_is_a_share_of_the_map() -> None:
    for style in STYLES.values():
        small = np.mean([style(np.random.default_rng(s), 64, (32, 32)).mean() for s in range(20)])
        large = np.mean([style(np.random.default_rng(s), 256, (128, 128)).mean() for s in range(20)])
        assert large == pytest.approx(small, rel=0.5)


def test_mixed_masks_touch_the_surface_and_leave_context() -> None:
    for seed in range(40):
        mask = draw_mask(np.random.default_rng(seed), FACE)
        hidden = (mask & FACE).sum() / FACE.sum()
        assert 0 < hidden < 0.99
    weights = {"blob": 1.0, "lines": 0.0}
    assert np.array_equal(
        draw_mask(np.random.default_rng(3), FACE, weights), draw_mask(np.random.default_rng(3), FACE, weights)
    )


def test_weights_are_obeyed_and_checked() -> None:
    stripe = draw_mask(np.random.default_rng(0), FACE, {"stripe": 1.0})
    assert (stripe & FACE).any()
    with pytest.raises(ValueError, match="spots"):
        draw_mask(np.random.default_rng(0), FACE, {"spots": 1.0})
    with pytest.raises(ValueError, match="nothing"):
        draw_mask(np.random.default_rng(0), FACE, {"blob": 0.0})
    with pytest.raises(ValueError, match="surface"):
        draw_mask(np.random.default_rng(0), np.zeros_like(FACE))
    assert set(DEFAULT_WEIGHTS) == set(STYLES)


def test_features_are_hidden_where_the_face_has_some() -> None:
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    eye = np.hypot(x - 0.15, y + 0.12) < 0.08
    slope = np.where(eye, np.sin(90 * x), 0)
    n = np.stack([slope + x, -y, np.ones_like(x)], axis=-1)
    n = (n / np.linalg.norm(n, axis=-1, keepdims=True) * FACE[..., None]).astype(np.float32)
    where = relief(n, FACE)
    assert where[eye].mean() > 20 * where[FACE & ~eye].mean() and (where[~FACE] == 0).all()
    hits = {
        known: np.mean(
            [
                (
                    draw_mask(np.random.default_rng(s), FACE, {"feature": 1.0}, n if known else None) & eye
                ).sum()
                / eye.sum()
                for s in range(40)
            ]
        )
        for known in (True, False)
    }
    assert hits[True] > 0.5 and hits[False] < 0.3
