"""Losses for normals. Each takes (n, 3, h, w) unit vectors and (n, 1, h, w) weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: How far `registered` looks, in steps of a 96th of the map, along each axis.
SHIFTS = 2


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of (n, 1, h, w) values under non-negative weights; zero when no weight is left."""
    return (values * weight).sum() / weight.sum().clamp_min(1.0)


def balanced(weight: Tensor, balance: float) -> Tensor:
    """Weights (n, 1, h, w) with small holes lifted: the mean over the batch stays as it was.

    Args:
        weight: non-negative.
        balance: 0 leaves each texel its weight, 1 gives each map the same sum.
    """
    if balance == 0:
        return weight
    total = weight.sum(dim=(1, 2, 3), keepdim=True)
    lifted = weight * total.clamp_min(1.0) ** -balance
    return lifted * (weight.sum() / lifted.sum().clamp_min(1e-6))


def _bell(size: int, sigma: float, like: Tensor) -> Tensor:
    """A Gaussian over an axis as a symmetric matrix (size, size), zero beyond three sigma.

    As a product of matrices it takes a tenth of the time that a convolution of single channels does.
    """
    line = torch.arange(size, device=like.device, dtype=like.dtype)
    apart = line[:, None] - line
    bell = torch.exp(-0.5 * (apart / sigma) ** 2) * (apart.abs() <= round(3 * sigma))
    return bell / bell[size // 2].sum()


def close_seam(predicted: Tensor, truth: Tensor, known: Tensor, sigma: float = 2.0) -> Tensor:
    """The prediction plus its error at known texels, continued a few texels into the hole.

    A quick stand-in, with a gradient, for the spline that `core.tension` solves: a normalised
    convolution (Knutsson and Westin, 1993) with a Gaussian, which fades where known texels are far.

    Args:
        predicted: (n, 3, h, w) unit vectors.
        truth: (n, 3, h, w).
        known: (n, 1, h, w) 1 where the truth is known.
        sigma: of the Gaussian, in texels.

    Returns:
        (n, 3, h, w) unit vectors.
    """
    both = torch.cat([(truth - predicted) * known, known], dim=1)
    down, across = (_bell(size, sigma, both) for size in both.shape[2:])
    spread = down @ both @ across
    return functional.normalize(predicted + spread[:, :3] / (spread[:, 3:] + 0.02), dim=1, eps=1e-4)


@torch.no_grad()
def registered(predicted: Tensor, truth: Tensor, hole: Tensor, valid: Tensor) -> Tensor:
    """The truth, its parts moved by up to a fiftieth of the map to where the prediction has put them.

    Where exactly a hidden eye lies, nothing tells. Measured against the truth as it lies, the best answer is
    the mean of all places, which is a blur; measured against the truth moved, it is an eye.

    Each texel moves by the mean of the shifts on a grid, weighted by how well the surroundings then fit
    (soft block matching); less near the border of the hole, where the known texels tell the place.

    Args:
        predicted: (n, 3, h, w) unit vectors.
        truth: (n, 3, h, w), zero off the surface.
        hole: (n, 1, h, w).
        valid: (n, 1, h, w).

    Returns:
        (n, 3, h, w) the truth's own vectors, none mixed; as they lie where they would move off the surface.
    """
    n, _, height, width = truth.shape
    factor = max(1, round(max(height, width) / 96))
    inside = functional.avg_pool2d(hole * valid, factor)
    known = functional.avg_pool2d((1 - hole) * valid, factor)
    answer, wanted = (
        functional.avg_pool2d(t, factor) for t in (torch.where(hole > 0, predicted, truth), truth)
    )
    rows, columns = inside.shape[2:]
    down, across = _bell(rows, 4.0, inside), _bell(columns, 4.0, inside)
    surface = functional.avg_pool2d(valid, factor)
    share = (down @ surface @ across).clamp_min(1e-3)
    padded = functional.pad(wanted, [SHIFTS] * 4, mode="replicate")
    shifts = [(y, x) for y in range(-SHIFTS, SHIFTS + 1) for x in range(-SHIFTS, SHIFTS + 1)]
    errors = torch.cat(
        [
            ((answer - padded[:, :, SHIFTS + y :, SHIFTS + x :][:, :, :rows, :columns]) ** 2).sum(
                dim=1, keepdim=True
            )
            for y, x in shifts
        ],
        dim=1,
    )
    errors = down @ (errors * surface) @ across / share
    still = errors[:, len(shifts) // 2, None]
    steps = torch.tensor(shifts, device=errors.device, dtype=errors.dtype)
    length = (steps * steps).sum(dim=1).reshape(1, -1, 1, 1)
    # A move must pay: a shift by one step has to fit better by a hundredth.
    fit = torch.softmax(-(errors + 0.01 * still * length) / (0.05 * still + 1e-5), dim=1)
    moves = torch.einsum("nkhw,kc->nchw", fit, steps)
    near = _bell(rows, 1.5, inside) @ known @ _bell(columns, 1.5, inside)
    moves = moves * (1 - 3 * near).clamp(0, 1) * (inside > 0)
    moves = functional.interpolate(moves * factor, size=(height, width), mode="bilinear").round().long()
    y = (torch.arange(height, device=moves.device)[:, None] + moves[:, 0]).clamp(0, height - 1)
    x = (torch.arange(width, device=moves.device) + moves[:, 1]).clamp(0, width - 1)
    places = (y * width + x).reshape(n, 1, -1).expand(-1, 3, -1)
    moved = truth.flatten(2).gather(2, places).reshape(truth.shape)
    return torch.where((hole > 0) & moved.any(dim=1, keepdim=True), moved, truth)


def cosine(predicted: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean of 1 - cos of the angle between two maps (the reconstruction loss of arXiv 2401.08099)."""
    return weighted_mean(1 - (predicted * truth).sum(dim=1, keepdim=True), weight)


def chord(predicted: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean distance of the vectors' tips: about the angle, so that small errors still count."""
    square = ((predicted - truth) ** 2).sum(dim=1, keepdim=True)
    return weighted_mean(torch.sqrt(square + 1e-5), weight)


def gradient(predicted: Tensor, truth: Tensor, hole: Tensor, valid: Tensor) -> Tensor:
    """Mean difference of the maps' derivatives at one and two texels' distance.

    Counts pairs of surface texels of which at least one lies in the hole, so that the border is held too.
    """
    total = predicted.new_zeros(())
    for step in (1, 2):
        for axis in (2, 3):
            size = predicted.shape[axis] - step
            first = [t.narrow(axis, 0, size) for t in (predicted, truth, hole, valid)]
            second = [t.narrow(axis, step, size) for t in (predicted, truth, hole, valid)]
            difference = ((second[0] - first[0]) - (second[1] - first[1])).abs().sum(dim=1, keepdim=True)
            weight = first[3] * second[3] * torch.maximum(first[2], second[2])
            total = total + weighted_mean(difference, weight)
    return total / 4


def measured(
    predicted: Tensor, composite: Tensor, truth: Tensor, weight: Tensor, hole: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`cosine` and `chord` of a prediction, and `gradient` of the map repaired with it."""
    slope = gradient(composite, truth, hole, valid)
    return cosine(predicted, truth, weight), chord(predicted, truth, weight), slope


def angle_degrees(predicted: Tensor, truth: Tensor) -> Tensor:
    """Angle between two maps in degrees, (n, 1, h, w); stable for small angles.

    2 atan2(|a - b|, |a + b|): W. Kahan, "How Futile are Mindless Assessments of Roundoff", 2006.
    """
    apart = torch.linalg.vector_norm(predicted - truth, dim=1, keepdim=True)
    together = torch.linalg.vector_norm(predicted + truth, dim=1, keepdim=True)
    return torch.rad2deg(2 * torch.atan2(apart, together))


def relight(predicted: Tensor, truth: Tensor, weight: Tensor, lights: Tensor) -> Tensor:
    """Mean difference of Lambert shading under given lights, and of the shading's derivatives.

    Args:
        predicted: (n, 3, h, w).
        truth: (n, 3, h, w).
        weight: (n, 1, h, w).
        lights: (n, k, 3) unit directions towards the lights.
    """
    shade = torch.einsum("nkc,nchw->nkhw", lights, predicted).clamp_min(0)
    wanted = torch.einsum("nkc,nchw->nkhw", lights, truth).clamp_min(0)
    off = shade - wanted
    total = weighted_mean(off.abs().mean(dim=1, keepdim=True), weight)
    for axis in (2, 3):
        pair = weight.narrow(axis, 0, weight.shape[axis] - 1) * weight.narrow(axis, 1, weight.shape[axis] - 1)
        total = total + weighted_mean(off.diff(dim=axis).abs().mean(dim=1, keepdim=True), pair)
    return total


def curl_difference(predicted: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean difference in curl of the slopes -n_x/n_z, -n_y/n_z: a surface's slopes have none.

    The truth's own curl is the measure, since a map of a face jumps where one part hides another. Texels
    turned further away than 70 degrees in the truth do not count.
    """

    def curl(n: Tensor) -> Tensor:
        z = n[:, 2:].clamp_min(0.2)
        right, up = -n[:, 0:1] / z, -n[:, 1:2] / z
        # Rows count downwards: the derivative along up is the negative one along rows.
        return up[:, :, :-1].diff(dim=3) + right[:, :, :, :-1].diff(dim=2)

    facing = weight * (truth[:, 2:] > 0.34)
    whole = facing[:, :, :-1, :-1] * facing[:, :, 1:, :-1] * facing[:, :, :-1, 1:]
    return weighted_mean((curl(predicted) - curl(truth)).abs().clamp_max(2.0), whole)
