"""Measures of a fill, all taken inside the hole. Maps are float32 (h, w, 3), unit, in the internal frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

F32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

#: Directions towards lights under which maps are compared, unit, x right, y up, z out.
LIGHTS = tuple(
    np.array(v, np.float64) / np.linalg.norm(v)
    for v in ((1, 0.3, 0.5), (-1, 0.3, 0.5), (0, 1, 0.4), (0.2, -0.6, 0.8))
)
#: A true curl below this, as a drawn height field has it, is rounding: nothing to compare a fill's with.
NO_CURL = 1e-4
SSIM_SIGMA = 1.5
SSIM_RADIUS = 5


def angles(filled: F32, truth: F32) -> F32:
    """Angle in degrees (h, w) between unit vectors, stable for small angles (W. Kahan, 2006)."""
    apart = np.linalg.norm(filled - truth, axis=-1)
    together = np.linalg.norm(filled + truth, axis=-1)
    return np.asarray(np.degrees(2 * np.arctan2(apart, together)), dtype=np.float32)


def angular(filled: F32, truth: F32, inside: Bool) -> dict[str, float]:
    """Mean, median, 95th percentile of the angular error; shares under 11.25, 22.5 and 30 degrees."""
    error = angles(filled, truth)[inside]
    return {
        "mean": float(error.mean()),
        "median": float(np.median(error)),
        "p95": float(np.percentile(error, 95)),
        "under_11": float((error < 11.25).mean()),
        "under_22": float((error < 22.5).mean()),
        "under_30": float((error < 30).mean()),
    }


def psnr(first: NDArray[np.floating], second: NDArray[np.floating], inside: Bool) -> float:
    """Peak signal-to-noise ratio in dB of images (h, w) or (h, w, c) in 0..1 over the given texels."""
    mse = float(((first[inside].astype(np.float64) - second[inside]) ** 2).mean())
    return float("inf") if mse == 0 else -10 * float(np.log10(mse))


def ssim_map(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Structural similarity (h, w) of images (h, w) in 0..1.

    Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to Structural
    Similarity", 2004: a Gaussian window of deviation 1.5 and 11 x 11 texels.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)

    def blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.gaussian_filter(x, SSIM_SIGMA, radius=SSIM_RADIUS, mode="reflect"))

    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return np.asarray(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))


def ssim(first: NDArray[np.floating], second: NDArray[np.floating], inside: Bool) -> float:
    """Mean structural similarity over the given texels, and over channels for (h, w, c)."""
    if first.ndim == 2:
        return float(ssim_map(first, second)[inside].mean())
    return float(np.mean([ssim(first[..., i], second[..., i], inside) for i in range(first.shape[2])]))


def _eroded(inside: Bool, by: int) -> Bool:
    return np.asarray(ndimage.binary_erosion(inside, iterations=by, border_value=0))


def _laplacian(normals: F32) -> NDArray[np.float64]:
    return np.stack([ndimage.laplace(normals[..., i].astype(np.float64)) for i in range(3)], axis=-1)


def detail_ratio(filled: F32, truth: F32, inside: Bool) -> float:
    """Deviation of the Laplacian in the hole, filled over true; 1 is equally rough, 0 is blurred."""
    core = _eroded(inside, 1)
    if not core.any():
        return float("nan")
    true = _laplacian(truth)[core].std()
    return float(_laplacian(filled)[core].std() / true) if true > 0 else float("nan")


def octave_ratios(filled: F32, truth: F32, inside: Bool, octaves: int = 4) -> list[tuple[float, float]]:
    """Detail ratio of each octave, finest first, filled over true: of deviations, and of usual sizes.

    An octave is a difference of Gaussians. Its usual size is the median of its vectors' lengths: lids and
    lips have most of a head's deviation, and nearly nothing of its median, which is its skin's.
    """
    ratios = []
    for k in range(octaves):
        sigma = 0.5 * 2.0**k
        core = _eroded(inside, max(1, round(2 * sigma)))
        if np.count_nonzero(core) < 16:
            ratios.append((float("nan"), float("nan")))
            continue

        def band(n: F32, sigma: float = sigma, core: Bool = core) -> NDArray[np.float64]:
            blurred: Callable[[float], list[NDArray[np.float64]]] = lambda s: [  # noqa: E731
                ndimage.gaussian_filter(n[..., i].astype(np.float64), s) for i in range(3)
            ]
            return np.asarray(
                (np.stack(blurred(sigma), axis=-1) - np.stack(blurred(2 * sigma), axis=-1))[core]
            )

        of_filled, of_truth = band(filled), band(truth)
        deviation = of_truth.std()
        usual = float(np.median(np.linalg.norm(of_truth, axis=-1)))
        ratios.append(
            (
                float(of_filled.std() / deviation) if deviation > 0 else float("nan"),
                float(np.median(np.linalg.norm(of_filled, axis=-1))) / usual if usual > 0 else float("nan"),
            )
        )
    return ratios


def curl(normals: F32, inside: Bool) -> float:
    """Mean absolute curl of the slopes: zero for a map that is the gradient of a surface.

    Slopes are -n_x/n_z and -n_y/n_z. Texels turned more than 80 degrees away have no useful slope and are
    left out with their neighbours.
    """
    z = normals[..., 2].astype(np.float64)
    steep = z < np.cos(np.radians(80))
    z = np.where(steep, 1.0, z)
    right, up = -normals[..., 0] / z, -normals[..., 1] / z
    # Rows count downwards, so the derivative along up is the negative one along rows.
    value = np.gradient(up, axis=1) + np.gradient(right, axis=0)
    core = _eroded(inside & ~steep, 1)
    return float(np.abs(value[core]).mean()) if core.any() else float("nan")


def seam(normals: F32, hole: Bool, valid: Bool) -> float:
    """Mean step across the hole's border over the mean step elsewhere on the surface; near 1 is invisible."""
    across: list[NDArray[np.floating]] = []
    elsewhere: list[NDArray[np.floating]] = []
    for axis in (0, 1):
        step = np.linalg.norm(np.diff(normals, axis=axis), axis=-1)
        first = [slice(None)] * 2
        second = [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        a, b = tuple(first), tuple(second)
        both = valid[a] & valid[b]
        border = both & (hole[a] != hole[b])
        across.append(step[border])
        elsewhere.append(step[both & ~border])
    at, other = np.concatenate(across), np.concatenate(elsewhere)
    if len(at) == 0 or len(other) == 0 or other.mean() == 0:
        return float("nan")
    return float(at.mean() / other.mean())


def mean_of(measures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each measure over the fills where it is a finite number; NaN where it is for none."""
    result = {}
    for key in measures[0]:
        values = np.array([m[key] for m in measures], np.float64)
        values = values[np.isfinite(values)]
        result[key] = float(values.mean()) if len(values) else float("nan")
    return result


def measure(filled: F32, truth: F32, hole: Bool, valid: Bool) -> dict[str, float]:
    """All measures of one fill.

    Args:
        filled: the repaired map (h, w, 3), equal to the truth outside the hole.
        truth: the undamaged map (h, w, 3).
        hole: (h, w) what was hidden.
        valid: (h, w) the surface.
    """
    inside = hole & valid
    result = angular(filled, truth, inside)
    result["psnr"] = psnr(filled * 0.5 + 0.5, truth * 0.5 + 0.5, inside)
    result["ssim"] = ssim(filled * 0.5 + 0.5, truth * 0.5 + 0.5, inside)
    lit = [(np.clip(filled @ light, 0, 1), np.clip(truth @ light, 0, 1)) for light in LIGHTS]
    result["relit_psnr"] = float(np.mean([psnr(a, b, inside) for a, b in lit]))
    result["relit_ssim"] = float(np.mean([ssim(a, b, inside) for a, b in lit]))
    result["detail"] = detail_ratio(filled, truth, inside)
    octaves = octave_ratios(filled, truth, inside)
    result |= {f"detail_octave_{k}": deviation for k, (deviation, _) in enumerate(octaves)}
    result |= {f"usual_octave_{k}": usual for k, (_, usual) in enumerate(octaves)}
    result["curl"], result["curl_true"] = curl(filled, inside), curl(truth, inside)
    exact = not result["curl_true"] > NO_CURL
    result["curl_ratio"] = float("nan") if exact else result["curl"] / result["curl_true"]
    result["seam"] = seam(filled, hole, valid)
    return result
