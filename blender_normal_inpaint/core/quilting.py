"""Detail continued into a hole by quilting patches of known detail.

Efros and Freeman, "Image Quilting for Texture Synthesis and Transfer", 2001: patches on a grid, chosen for
their agreement with what lies under their overlap (known border texels included) and with the place they go
to, joined along minimal-error cuts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .bands import FEWEST, LARGEST, LOUD, ComplexArray, Scene, Tell, roughness, thickness
from .engine import BoolArray, FloatArray
from .planes import convolve, enlarge, margin, pull_push, shrink, unit
from .resample import area_table

Ints = npt.NDArray[np.int64]

# Strength that patches are put in with, by the hole's mean width in texels: near what `core.octaves` aims at.
_STRENGTHS = ((16.0, 48.0), (0.865, 0.93))
_PATCHES = (*LARGEST, 64, 32, 16, 8)
_POOL = 2048  # source windows kept to choose from; with fewer than `FEWEST` a smaller patch is tried
_CANDIDATES = 64  # windows scored for each patch
_SAMPLES = 256  # texels of the overlap compared for each of them
# In tangent space windows are no sources that have a part so many times as loud as the usual window, if there
# are others. Seen on a scan of skin, at 3.0: an ear's rim on the cheek, a nostril on the jaw; at 2.2 neither,
# and strengths and errors are the same within a hundredth or two.
_PLAIN = 2.2
# A window with a part so many times as quiet as all of it is no even texture: a gap of the layout, a smooth
# lid. Of windows of skin alone one in a hundred has a part 3 times as quiet.
_BARE = 6.0
# A short low-pass.
_BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / np.float32(16)


def quilt(scene: Scene, rng: np.random.Generator, tell: Tell) -> bool:
    """Fill scene.detail in scene.area from its known texels; False if there are too few sources."""
    strength = np.float32(np.interp(thickness(scene.area), *_STRENGTHS))
    sources = _sources(scene, _patch_size(scene), rng)
    if sources is None:
        return False
    size, places = sources.size, sources.places
    src_r, src_c, features = sources.rows, sources.columns, sources.features
    overlap = size // 4
    pitch = size - overlap
    width = scene.area.shape[1]
    # A fold also stands out of its own window; where nothing around tells of one, none is put. Nor is a lull.
    usual = float(np.quantile(features[5] - features[0], 0.7))
    usual_lull = float(np.quantile(features[0] - features[6], 0.7))
    # Half a turn keeps the direction of creases; more only where there is little to choose from and no
    # direction.
    turns = 8 if scene.isotropic and len(src_r) < _POOL // 4 else 2

    # Offsets of a patch's texels in each of its eight positions, and what its vectors are turned by.
    # Position k < 4 is turned k quarters, the others are also mirrored left to right.
    grid = np.arange(size)[:, None] * width + np.arange(size)[None, :]
    offsets = np.stack([np.rot90(grid if k < 4 else grid[:, ::-1], k % 4) for k in range(8)]).reshape(8, -1)
    factors = np.array([1, 1j, -1, -1j, -1, -1j, 1, 1j], np.complex64)
    order = np.arange(8) if turns == 8 else np.array([0, 2])

    # The grid starts at a random place, a little before the hole. A cell is needed if it has texels to fill
    # outside its overlap with the cells above and to the left; those fill the overlap. It is, too, where the
    # hole ends just before: a patch that ends with the hole sees nothing of what it has to meet.
    meet = max(3, size // 10)
    rows, cols = np.flatnonzero(scene.area.any(1)), np.flatnonzero(scene.area.any(0))
    top = int(rows[0]) - overlap - int(rng.integers(0, pitch // 2 + 1))
    left = int(cols[0]) - overlap - int(rng.integers(0, pitch // 2 + 1))
    top, left = max(top, 0), max(left, 0)
    gi = np.arange((int(rows[-1]) + meet - top - overlap) // pitch + 1)
    gj = np.arange((int(cols[-1]) + meet - left - overlap) // pitch + 1)
    cell_i, cell_j = (a.ravel() for a in np.meshgrid(gi, gj, indexing="ij"))
    cell_r, cell_c = top + cell_i * pitch, left + cell_j * pitch
    reach = size + meet - overlap
    before = overlap - meet
    needed = _count(area_table(scene.area), cell_r + before, cell_c + before, reach, reach) > 0
    cell_i, cell_j, cell_r, cell_c = (a[needed] for a in (cell_i, cell_j, cell_r, cell_c))

    # Cells with equal 2 i + j depend on earlier ones only: they're done together.
    front = 2 * cell_i + cell_j
    by_front = np.argsort(front, kind="stable")
    starts = np.flatnonzero(np.diff(front[by_front], prepend=-1))
    half = size // 2
    used = np.zeros((scene.area.shape[0] // half + 2, width // half + 2), np.float32)  # one cell of margin
    extent = float(max(scene.area.shape))
    windows = np.lib.stride_tricks.sliding_window_view
    all_detail = windows(scene.detail, (size, size))
    all_area = windows(scene.area, (size, size))
    all_known = windows(scene.known, (size, size))
    early = np.zeros((size, size), bool)
    early[:overlap] = early[:, :overlap] = True
    flat = scene.detail.reshape(-1)

    for n, group in enumerate(np.split(by_front, starts[1:])):
        if n % 4 == 0:
            tell(0.4 + 0.5 * n / len(starts))
        for part in np.array_split(group, -(-len(group) // 48)):
            r, c = cell_r[part], cell_c[part]
            old, area, known = all_detail[r, c], all_area[r, c], all_known[r, c]
            near = np.zeros_like(known)
            edge = known.any((1, 2))
            near[edge] = known[edge] & _widened(area[edge], meet)
            place = places.at(r, c)
            # Candidates: near ones first, with chance.
            far = np.hypot(src_r[None] - r[:, None], src_c[None] - c[:, None]) / extent
            unlike = 0.35 * np.abs(features[0][None] - place[0][:, None])
            unlike += 1.0 * np.square(features[1:4][:, None] - place[1:4][:, :, None]).sum(0)
            unlike += 0.12 * np.abs(features[4][None] - place[4][:, None])
            unlike += 0.25 * far
            unlike += 1.0 * np.maximum(features[5][None] - place[0][:, None] - usual, 0)
            unlike += 1.0 * np.maximum(place[0][:, None] - features[6][None] - usual_lull, 0)
            m = min(_CANDIDATES, len(src_r))
            lottery = unlike + rng.exponential(0.25, unlike.shape)
            pick = (
                np.argpartition(lottery, m - 1, axis=1)[:, :m] if m < len(src_r) else np.argsort(lottery, 1)
            )
            way = order[rng.integers(0, len(order), pick.shape)]
            corner = src_r[pick] * width + src_c[pick]
            cost = np.take_along_axis(unlike, pick, 1)
            cost += 0.05 * (way != 0)
            cost += 0.2 * used[(src_r[pick] + size // 4) // half, (src_c[pick] + size // 4) // half]
            cost += _mismatch(flat, old, (area & early) | near, corner, offsets, factors, way, place[0], rng)
            best = np.argmin(cost, axis=1)
            index = np.arange(len(part))
            way_b, pick_b = way[index, best], pick[index, best]
            new = flat[corner[index, best][:, None] + offsets[way_b]]
            new = np.where((way_b < 4)[:, None], new, new.conj()) * factors[way_b][:, None]
            louder = np.exp(0.5 * np.clip(place[0] - features[0][pick_b], -0.45, 0.45)).astype(np.float32)
            new = (new * (strength * louder)[:, None]).reshape(-1, size, size).astype(np.complex64)
            at_r, at_c = (src_r[pick_b] + size // 4) // half, (src_c[pick_b] + size // 4) // half
            for dr in (-1, 0, 1):  # -1 of 0 is the margin
                for dc in (-1, 0, 1):
                    np.add.at(used, (at_r + dr, at_c + dc), 1.0 / (1 + abs(dr) + abs(dc)))
            if near.any():
                touched = near.any((1, 2))
                new[touched] += _join(old[touched] - new[touched], known[touched])
            keep = _cuts(np.where(area, np.square(np.abs(old - new)), 0).astype(np.float32), overlap)
            blend = old + (new - old) * keep
            for k in range(len(part)):
                spot = scene.detail[r[k] : r[k] + size, c[k] : c[k] + size]
                np.copyto(spot, blend[k], where=area[k])
    return True


def _patch_size(scene: Scene) -> int:
    """As large as the widest band asks for, no larger than a thin hole needs."""
    wanted = max(32.0, 4.5 * scene.widest)
    if thickness(scene.area) < 24:
        wanted = min(wanted, 32.0)
    return min((p for p in _PATCHES if p >= 0.85 * wanted), default=_PATCHES[0])


@dataclass(frozen=True)
class _Sources:
    """Windows of known detail that patches are taken from.

    Attributes:
        size: of them.
        rows: (n,) of their corners.
        columns: likewise.
        places: what is known of any window of the size.
        features: (7, n) of these, see `_Places.at`.
    """

    size: int
    rows: Ints
    columns: Ints
    places: _Places
    features: FloatArray

    def only(self, chosen: BoolArray) -> _Sources:
        """Some of them."""
        return replace(
            self, rows=self.rows[chosen], columns=self.columns[chosen], features=self.features[:, chosen]
        )


def _enough(size: int, r: Ints, c: Ints) -> bool:
    """Whether windows of a size show enough places; of the smallest patches a few will do."""
    # Windows on top of one another count once.
    places = np.unique(r // max(size // 2, 4) * 100_003 + c // max(size // 2, 4))
    return len(places) >= (FEWEST if size > _PATCHES[-1] else 8)


def _sources(scene: Scene, size: int, rng: np.random.Generator) -> _Sources | None:
    """Windows that are known throughout and show skin, of a size at most; None if there are too few.

    Windows with a bare part (the edge of an island, a smooth lid) would leave a bald spot in pores: rather
    than those smaller ones are taken.
    """
    # On even texels only: a quarter of the table.
    pairs = scene.known[::2] & scene.known[1::2]
    bad = area_table(~(pairs[:, ::2] & pairs[:, 1::2]))
    rows, cols = np.flatnonzero(scene.known.any(1)), np.flatnonzero(scene.known.any(0))
    bare: _Sources | None = None
    for p in [p for p in _PATCHES if p <= size]:
        high = max(int(rows[-1]) + 2 - p, int(rows[0]) + 1), max(int(cols[-1]) + 2 - p, int(cols[0]) + 1)
        r = rng.integers(int(rows[0]), high[0], 32 * _POOL) // 2
        c = rng.integers(int(cols[0]), high[1], 32 * _POOL) // 2
        clean = np.flatnonzero(_count(bad, r, c, p // 2, p // 2) == 0)
        r, c = 2 * r[clean], 2 * c[clean]
        if not _enough(p, r, c):
            continue
        r, c, places = r[:_POOL], c[:_POOL], _places(scene, p)
        skin = _skin(scene, _Sources(p, r, c, places, places.at(r, c)))
        if skin is None:
            continue
        whole = skin.only(skin.features[0] - skin.features[6] < 2 * np.log(_BARE))
        if _enough(p, whole.rows, whole.columns):
            return whole
        bare = bare or skin
    return bare


def _skin(scene: Scene, sources: _Sources) -> _Sources | None:
    """Those of some windows that have detail and no features; None if they are too few.

    Features of the face, and folds and scars, must not be strewn over it: windows with a part far louder than
    the usual window are no sources. What is quite flat (gaps of the layout) says nothing of the usual.
    """
    energy, loudest = sources.features[0], sources.features[5]
    textured = energy[energy > 2 * np.log(scene.least)]
    if textured.size == 0:
        return None
    common = float(np.quantile(textured, scene.common))
    calm = loudest < common + 2 * np.log(_PLAIN)
    if not scene.folded or np.count_nonzero(calm) < FEWEST:
        calm = loudest < common + 2 * np.log(LOUD)
    return sources.only(calm) if np.count_nonzero(calm) >= 8 else None


@dataclass(frozen=True)
class _Places:
    """What is known of windows of the patch's size, by the cell of their corner.

    Attributes:
        cell: Texels per cell.
        energy: (h, w) natural logarithm of the mean square detail, without features, continued into the hole.
        normal: (3, h, w) mean low-pass normal.
        bend: (h, w) natural logarithm of how much the low-pass normal changes within the window.
        peak: (h, w) natural logarithm of the mean square detail in the window's loudest cell.
        lull: (h, w) the same in the quietest cell in it or beside it.
    """

    cell: int
    energy: FloatArray
    normal: FloatArray
    bend: FloatArray
    peak: FloatArray
    lull: FloatArray

    def at(self, r: Ints, c: Ints) -> FloatArray:
        """(7, ...) features of windows with their corners at (r, c): energy, normal, bend, peak, lull."""
        i, j = (r + self.cell // 2) // self.cell, (c + self.cell // 2) // self.cell
        i, j = np.minimum(i, self.energy.shape[0] - 1), np.minimum(j, self.energy.shape[1] - 1)
        rest = self.bend[i, j][None], self.peak[i, j][None], self.lull[i, j][None]
        return np.concatenate([self.energy[i, j][None], self.normal[:, i, j], *rest])


def _places(scene: Scene, size: int) -> _Places:
    """Features of all windows of a size, at a quarter of it."""
    cell = max(4, size // 4)
    h, w = scene.area.shape
    h, w = h // cell * cell, w // cell * cell
    energy, there, calm = roughness(scene, cell)
    mean, texture = (pull_push(energy, cells.astype(np.float32)) for cells in (there, calm))
    # The low-pass, sampled at cell centres from its own coarse grid.
    f = scene.step
    at_r = (np.arange(h // cell) * cell + cell // 2) // f + 1
    at_c = (np.arange(w // cell) * cell + cell // 2) // f + 1
    low = unit(scene.coarse[:3][:, at_r][:, :, at_c])

    def cells(field: FloatArray, more: int = 0) -> list[FloatArray]:
        """The 4 x 4 cells of the window whose corner is each cell, and so many more on each side."""
        n = size // cell + 2 * more
        wide = np.pad(field, (more, n - 1 - more), mode="edge")
        return [wide[a : a + field.shape[0], b : b + field.shape[1]] for a in range(n) for b in range(n)]

    def window(field: FloatArray) -> FloatArray:
        """Mean over the window whose corner is each cell."""
        return np.asarray(np.mean(cells(field), axis=0), np.float32)

    normal = np.stack([window(low[c]) for c in range(3)])
    spread = np.maximum(1 - np.square(normal).sum(0), 0)
    peak = np.log(np.max(cells(mean), axis=0) + 1e-9)
    # A window may begin half a cell beside its own, and must not have a bare edge there.
    lull = np.log(np.min(cells(mean, 1), axis=0) + 1e-9)
    return _Places(cell, np.log(window(texture) + 1e-9), normal, np.log(spread + 1e-4), peak, lull)


def _count(table: npt.NDArray[np.int32], r: Ints, c: Ints, h: int, w: int) -> Ints:
    """Number of set texels in windows h x w with their corner at (r, c)."""
    found = table[r + h, c + w] - table[r, c + w] - table[r + h, c] + table[r, c]
    return np.asarray(found, np.int64)


def _widened(mask: BoolArray, by: int) -> BoolArray:
    """(n, h, w) masks widened by a number of texels in the maximum norm."""
    for axis in (1, 2):
        total = np.cumsum(
            np.pad(mask, [(0, 0)] + [(by + 1, by) if a == axis else (0, 0) for a in (1, 2)]), axis=axis
        )
        n = mask.shape[axis]
        late = [slice(None)] * 3
        soon = [slice(None)] * 3
        late[axis], soon[axis] = slice(2 * by + 1, 2 * by + 1 + n), slice(0, n)
        mask = total[tuple(late)] > total[tuple(soon)]
    return mask


def _mismatch(
    flat: ComplexArray,
    old: ComplexArray,
    overlap: BoolArray,
    corner: Ints,
    offsets: Ints,
    factors: ComplexArray,
    way: Ints,
    energy: FloatArray,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """How little (n, m) candidates agree with what is under them: about 1 for strangers, 0 for twins."""
    n = len(old)
    where = np.flatnonzero(overlap.reshape(n, -1).ravel())
    area = overlap[0].size
    counts = overlap.reshape(n, -1).sum(1)
    begin = np.cumsum(counts) - counts
    some = counts > 0
    out = np.zeros(way.shape)
    if not some.any():
        return out
    k = min(_SAMPLES, int(counts.max()))
    pick = begin[some][:, None] + (rng.random((int(some.sum()), k)) * counts[some][:, None]).astype(np.int64)
    texel = where[pick] - np.flatnonzero(some)[:, None] * area  # (n', k)
    aim = np.take_along_axis(old.reshape(n, -1)[some], texel, 1)
    there = offsets[way[some][..., None], texel[:, None, :]] + corner[some][..., None]
    found = flat[there]
    found = np.where((way[some] < 4)[..., None], found, found.conj()) * factors[way[some]][..., None]
    gap = found - aim[:, None, :]
    square = np.einsum("nmk,nmk->nm", gap.real, gap.real) + np.einsum("nmk,nmk->nm", gap.imag, gap.imag)
    out[some] = square / k / (2 * np.exp(energy[some])[:, None] + 1e-9)
    return out


def _join(gap: ComplexArray, known: BoolArray) -> ComplexArray:
    """What to add to (n, s, s) patches so that they meet the known texels under them.

    The gap between the two at known texels is continued past them, its wide part far and its narrow part
    only a few texels, so the patch's own detail stays.
    """
    size = known.shape[1]
    mask = known.astype(np.float32)
    gap = gap * mask
    out = np.zeros_like(gap)
    step = size // 16
    if step >= 2:
        even = step // 2 * 2
        packed = np.stack([gap.real, gap.imag, mask])
        low = convolve(shrink(packed, even), _BINOMIAL)
        reach = np.minimum(1, 2 * low[2]) / np.maximum(low[2], 1e-6)
        wide = enlarge(margin(low[:2] * reach), even)
        out = (wide[0] + 1j * wide[1]).astype(np.complex64)
        gap = (gap - out) * mask
    packed = convolve(np.stack([gap.real, gap.imag, mask]), _BINOMIAL)
    reach = np.minimum(1, 3.2 * packed[2]) / np.maximum(packed[2], 1e-6)
    out += ((packed[0] + 1j * packed[1]) * reach).astype(np.complex64)
    return out


def _cuts(error: FloatArray, overlap: int) -> FloatArray:
    """Share of the new patch, (n, s, s): 0 before and 1 after the cheapest cuts, left and top."""
    n, size, _ = error.shape
    strips = np.concatenate([error[:, :, :overlap], error[:, :overlap, :].transpose(0, 2, 1)])
    # Ties go to the middle of the strip.
    middle = np.abs(np.arange(overlap) - (overlap - 1) / 2).astype(np.float32)
    strips = strips + (1e-3 * float(error.mean()) + 1e-12) * middle
    cost = np.full((2 * n, size, overlap + 2), np.inf, np.float32)
    cost[:, 0, 1:-1] = strips[:, 0]
    for k in range(1, size):
        above = cost[:, k - 1]
        best = np.minimum(np.minimum(above[:, :-2], above[:, 2:]), above[:, 1:-1])
        np.add(best, strips[:, k], out=cost[:, k, 1:-1])
    path = np.empty((2 * n, size), np.int64)
    at = np.argmin(cost[:, -1], axis=1)
    path[:, -1] = at
    index, steps = np.arange(2 * n), np.arange(-1, 2)
    for k in range(size - 2, -1, -1):
        at = at - 1 + np.argmin(cost[index[:, None], k, at[:, None] + steps], axis=1)
        path[:, k] = at
    # A ramp of three texels across the cut.
    side = np.arange(size)[None, None, :] - (path - 1)[:, :, None]
    ramp = np.clip((side + 1.5) / 3, 0, 1).astype(np.float32)
    return np.asarray(ramp[:n] * ramp[n:].transpose(0, 2, 1), np.float32)
