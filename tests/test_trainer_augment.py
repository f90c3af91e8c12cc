"""Augmenting a map must give the map of the augmented geometry."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the trainer needs PyTorch")

from trainer.augment import Moves, Noise, apply_moves, draw_moves, draw_noise, with_noise  # noqa: E402
from trainer.metrics import angles  # noqa: E402

SIZE = 96


def _bumps(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """A surface without any symmetry, x right, y up, both in -1..1."""
    return (
        0.35 * np.exp(-((x - 0.2) ** 2 + (y - 0.3) ** 2) / 0.1)
        - 0.25 * np.exp(-((x + 0.3) ** 2 / 0.05 + (y + 0.1) ** 2 / 0.2))
        + 0.1 * x * y
        + 0.05 * y
    )


def _map(angle: float, zoom: float, shift: tuple[float, float], flip: bool) -> NDArray[np.float32]:
    """Normals of the moved surface, from its geometry: the height at every place, then slopes."""
    line = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    x, y = np.meshgrid(line, -line)

    def height(px: NDArray[np.float64], py: NDArray[np.float64]) -> NDArray[np.float64]:
        c, s = np.cos(angle), np.sin(angle)
        u, v = (c * px + s * py) / zoom, (-s * px + c * py) / zoom
        # An enlarged surface is higher, too: a similarity keeps angles.
        return _bumps((-u if flip else u) + shift[0], v + shift[1]) * zoom

    e = 1e-4
    right = (height(x + e, y) - height(x - e, y)) / (2 * e)
    up = (height(x, y + e) - height(x, y - e)) / (2 * e)
    n = np.stack([-right, -up, np.ones_like(x)], axis=-1)
    return (n / np.linalg.norm(n, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("angle", "zoom", "shift", "flip"),
    [
        (0.0, 1.0, (0.0, 0.0), True),
        (0.5, 1.0, (0.0, 0.0), False),
        (np.pi / 2, 1.0, (0.0, 0.0), False),
        (-2.5, 1.4, (0.1, -0.2), False),
        (0.7, 1.6, (-0.15, 0.1), True),
    ],
)
def test_map_follows_geometry(angle: float, zoom: float, shift: tuple[float, float], flip: bool) -> None:
    source = torch.from_numpy(_map(0, 1, (0, 0), False)).permute(2, 0, 1)[None]
    moves = Moves(
        np.array([angle], np.float32),
        np.array([zoom], np.float32),
        np.array([shift], np.float32),
        np.array([flip]),
        np.array([angle], np.float32),
    )
    moved, valid = apply_moves(source, torch.ones(1, 1, SIZE, SIZE), moves, SIZE)
    expected = _map(angle, zoom, shift, flip)
    surface = valid[0, 0].numpy() > 0
    assert surface.mean() > 0.5
    error = angles(moved[0].permute(1, 2, 0).numpy(), expected)[surface]
    assert error.mean() < 0.2
    assert np.percentile(error, 99) < 1.0
    # The check can fail: the picture alone, without its vectors, is far off.
    unturned = Moves(moves.angle, moves.zoom, moves.shift, np.array([False]), np.zeros(1, np.float32))
    if angle != 0:
        wrong, _ = apply_moves(source, torch.ones(1, 1, SIZE, SIZE), unturned, SIZE)
        assert angles(wrong[0].permute(1, 2, 0).numpy(), expected)[surface].mean() > 2


def test_result_is_unit_and_zero_off_the_surface() -> None:
    rng = np.random.default_rng(0)
    source = torch.from_numpy(_map(0, 1, (0, 0), False)).permute(2, 0, 1)[None].repeat(4, 1, 1, 1)
    valid = torch.ones(4, 1, SIZE, SIZE)
    valid[:, :, :20] = 0
    moved, surface = apply_moves(source, valid, draw_moves(rng, 4, "camera", (0.7, 1.5)), 64)
    length = moved.norm(dim=1, keepdim=True)
    assert torch.allclose(length, surface, atol=1e-4)
    assert 0 < float(surface.mean()) < 1


def test_draws_repeat_with_their_seed() -> None:
    one, two = (draw_moves(np.random.default_rng(5), 6, "tangent", (1, 2)) for _ in range(2))
    assert np.array_equal(one.angle, two.angle) and np.array_equal(one.shift, two.shift)
    turned = draw_moves(np.random.default_rng(5), 6, "object", (1, 2))
    assert not np.array_equal(turned.turn, turned.angle)


def test_noise_is_as_strong_as_drawn_and_leaves_the_rest_alone() -> None:
    truth = torch.zeros(3, 3, 64, 64)
    truth[:, 2, 8:] = 1
    noise = Noise(np.array([0.02, 0.0, 0.02], np.float32), np.array([0.0, 0.5, 1.0], np.float32), 7)
    noisy = with_noise(truth, noise)
    assert torch.equal(noisy, with_noise(truth, noise)) and torch.equal(noisy[1], truth[1])
    assert not noisy[:, :, :8].any()
    surface = noisy[[0, 2], :, 9:-1]
    assert torch.allclose(torch.linalg.vector_norm(surface, dim=1), torch.ones(()), atol=1e-4)
    for own, beside in zip(surface, (0.0, 0.5), strict=True):
        x = own[0, :, 1:-1]
        assert float(x.std()) == pytest.approx(0.02, rel=0.1)
        # Of a mean of nine, two thirds are the neighbour's too.
        along = float((x[:, 1:] * x[:, :-1]).mean() / x.var())
        assert along == pytest.approx(4 / 3 * beside, abs=0.08)


def test_noise_is_drawn_for_a_share_and_never_in_tangent_space() -> None:
    rng = np.random.default_rng(0)
    some = draw_noise(rng, 2000, "camera", 0.4)
    assert np.mean(some.strength > 0) == pytest.approx(0.4, abs=0.05)
    assert some.strength.max() <= 0.03 and some.strength[some.strength > 0].min() >= 0.004
    assert not draw_noise(rng, 100, "tangent", 1.0).strength.any()
