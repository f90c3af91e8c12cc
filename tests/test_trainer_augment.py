"""Augmenting a map must give the map of the augmented geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the trainer needs PyTorch")

from trainer.augment import (  # noqa: E402
    Moves,
    Noise,
    Scan,
    apply_moves,
    draw_moves,
    draw_noise,
    draw_scan,
    with_noise,
    with_scan,
)
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


def _scan(**changes: float) -> Scan:
    """A scan of one map with nothing to it but what is given."""
    values = {"strength": 0.0, "wavelength": 0.2, "stretch": 1.0, "angle": 0.0, "cover": 1.0} | changes
    values = {"blur": 0.0, "smeared": 1.0} | values
    return Scan(**{name: np.array([value], np.float32) for name, value in values.items()}, seed=4)


def _slopes(normals: Any) -> NDArray[np.float64]:
    """Of a map (1, 3, s, s): (2, s, s), to the right and upwards."""
    n = normals[0].double().numpy()
    return -n[:2] / n[2:]


def test_bumps_of_a_scan_are_those_of_a_surface() -> None:
    flat = torch.zeros(1, 3, 128, 128)
    flat[:, 2] = 1
    valid = torch.ones(1, 1, 128, 128)
    scan = _scan(strength=0.1)
    bumpy = with_scan(flat, valid, scan)
    assert torch.equal(bumpy, with_scan(flat, valid, scan))
    assert torch.allclose(bumpy.norm(dim=1), torch.ones(()), atol=1e-5)
    right, up = _slopes(bumpy)
    assert np.sqrt(np.mean(right**2 + up**2)) == pytest.approx(0.1, rel=0.1)
    # Slopes of a height have no curl, but for what differences of neighbours miss.
    curl = (right[:-2, 1:-1] - right[2:, 1:-1]) - (up[1:-1, 2:] - up[1:-1, :-2])
    bend = np.abs(right[:-2, 1:-1] - right[2:, 1:-1]) + np.abs(up[1:-1, 2:] - up[1:-1, :-2])
    assert np.abs(curl).mean() < 0.03 * bend.mean()
    # Stretched ones run along their direction.
    along, across = _slopes(with_scan(flat, valid, _scan(strength=0.1, stretch=5.0)))
    assert along.std() < 0.5 * across.std()
    turned = _slopes(with_scan(flat, valid, _scan(strength=0.1, stretch=5.0, angle=np.pi / 2)))
    assert turned[1].std() < 0.5 * turned[0].std()
    # They lie on a share of the map, and never turn what is seen away.
    some = with_scan(flat, valid, _scan(strength=0.3, cover=0.3))
    assert 0.1 < float((some[:, 2] < 1 - 1e-6).float().mean()) < 0.6
    assert float(with_scan(flat, valid, _scan(strength=5.0))[:, 2].min()) > 0


def test_a_scan_blurs_on_the_surface_alone() -> None:
    step = torch.zeros(1, 3, 64, 64)
    step[:, 0], step[:, 0, :, 32:], step[:, 2] = -0.6, 0.6, 0.8
    valid = torch.ones(1, 1, 64, 64)
    valid[..., :20] = 0
    step = step * valid
    soft = with_scan(step, valid, _scan(blur=2 / 64))
    assert torch.allclose(soft.norm(dim=1, keepdim=True), valid, atol=1e-5)
    profile = soft[0, 0, 40]
    expected = 0.6 * torch.erf((torch.arange(64) + 0.5 - 32) / (2 * 2**0.5))
    expected = expected / (expected**2 + 0.8**2).sqrt()
    assert torch.allclose(profile[20:], expected[20:], atol=0.02)
    assert torch.allclose(profile[20:24], step[0, 0, 40, 20:24], atol=1e-3)


def test_scans_are_drawn_for_a_share() -> None:
    rng = np.random.default_rng(0)
    some = draw_scan(rng, 4000, 0.4)
    assert np.mean((some.strength > 0) | (some.blur > 0)) == pytest.approx(0.4 * (1 - 0.25 * 0.3), abs=0.03)
    assert some.strength[some.cover > 0.6].max() <= 0.12
    rest = torch.rand(3, 3, 16, 16)
    assert with_scan(rest, torch.ones(3, 1, 16, 16), draw_scan(rng, 3, 0.0)) is rest
    one = draw_scan(np.random.default_rng(2), 3, 1.0)
    one.strength[0] = one.blur[0] = 0
    assert torch.equal(with_scan(rest, torch.ones(3, 1, 16, 16), one)[0], rest[0])
