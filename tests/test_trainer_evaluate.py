"""What evaluation measures: known answers and scikit-image's; the classic fills; cases and report."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _name in ("cv2", "scipy", "torch", "onnxruntime", "trimesh"):
    pytest.importorskip(_name, reason="evaluation needs it")

import trimesh  # noqa: E402

from blender_normal_inpaint.core.basemesh import Grid  # noqa: E402
from trainer import baselines, evaluate, metrics, sheets  # noqa: E402
from trainer.evaluate import head_cases  # noqa: E402
from trainer.metrics import angles, angular, curl, detail_ratio, measure, octave_ratios, psnr, seam, ssim_map  # noqa: E402
from trainer.sources.ict import Head  # noqa: E402
from trainer.sources.raster import vertex_normals  # noqa: E402
from trainer.sources.skin import noise, skin_map, slopes_to_normals  # noqa: E402

SIZE = 96
ALL = np.ones((SIZE, SIZE), np.bool_)


def _hole(radius: float = 0.25) -> Any:
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.hypot(x - SIZE / 2, y - SIZE / 2) < radius * SIZE


def _tilted(degrees: float) -> Any:
    a = np.radians(degrees)
    return np.broadcast_to(np.array([np.sin(a), 0, np.cos(a)], np.float32), (SIZE, SIZE, 3)).copy()


def test_psnr_and_ssim_are_those_of_scikit_image() -> None:
    reference = pytest.importorskip("skimage.metrics", reason="scikit-image is the independent answer")
    rng = np.random.default_rng(0)
    for amount in (0.02, 0.2):
        first = np.clip(0.5 + 0.2 * noise(rng, SIZE, 1, 20), 0, 1)
        second = np.clip(first + amount * rng.normal(size=first.shape), 0, 1)
        expected = reference.peak_signal_noise_ratio(first, second, data_range=1.0)
        assert psnr(first, second, ALL) == pytest.approx(expected, abs=1e-6)
        mean, full = reference.structural_similarity(
            first, second, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            full=True,
        )  # fmt: skip
        ours = ssim_map(first, second)
        inner = np.zeros_like(ALL)
        inner[8:-8, 8:-8] = True  # the two treat a picture's border differently
        assert np.abs(ours - full)[inner].max() < 1e-6
        assert ours[5:-5, 5:-5].mean() == pytest.approx(mean, abs=1e-6)
    # On a part of a picture, the mean of the map over that part; and three channels are averaged.
    colour = np.stack([first, second, first], axis=-1)
    other = np.stack([second, second, first], axis=-1)
    hole = _hole()
    _, full = reference.structural_similarity(
        first,
        second,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert metrics.ssim(colour, other, hole) == pytest.approx((full[hole].mean() + 2) / 3, abs=1e-6)
    assert psnr(first, first, ALL) == np.inf


def test_angles_are_counted_inside_the_hole() -> None:
    truth, filled, hole = _tilted(0), _tilted(0), _hole()
    half = hole.copy()
    half[: SIZE // 2] = False
    filled[half] = _tilted(25)[half]
    values = angular(filled, truth, hole)
    share = half.sum() / hole.sum()
    assert values["mean"] == pytest.approx(25 * share, abs=1e-3)
    assert values["p95"] == pytest.approx(25, abs=1e-3)
    assert values["under_11"] == values["under_22"] == pytest.approx(1 - share)
    assert values["under_30"] == 1


def test_detail_tells_blurred_equal_and_too_rough() -> None:
    rng = np.random.default_rng(1)
    truth = skin_map(rng, SIZE)
    inside = _hole(0.4)
    assert detail_ratio(truth, truth, inside) == pytest.approx(1)
    assert detail_ratio(_tilted(0), truth, inside) < 0.01
    slopes = [-truth[..., i].astype(np.float64) / truth[..., 2] for i in (0, 1)]
    rougher = slopes_to_normals(2 * slopes[0], 2 * slopes[1])
    assert detail_ratio(rougher, truth, inside) > 1.5
    # A fill that lacks the finest octave alone is told apart from one that lacks all.
    fine, coarse = noise(rng, SIZE, 24, 40), noise(rng, SIZE, 3, 6)
    both = slopes_to_normals(0.1 * (fine + coarse), 0 * fine)
    ratios = octave_ratios(slopes_to_normals(0.1 * coarse, 0 * fine), both, inside)
    assert ratios[0][0] < 0.2 and ratios[3][0] > 0.9
    # A fill that has a lid and no skin beside it is smooth in the usual place alone.
    lid = 3 * np.sin(1.5 * np.arange(SIZE)) * (np.abs(np.arange(SIZE) - SIZE / 2) < 4) + 0 * fine
    both = slopes_to_normals(lid + 0.02 * fine, 0 * fine)
    deviation, usual = octave_ratios(slopes_to_normals(lid, 0 * fine), both, inside)[0]
    assert deviation > 0.9 and usual < 0.2


def test_curl_is_zero_for_a_surface_and_known_for_a_twist() -> None:
    y, x = np.mgrid[:SIZE, :SIZE] / 20
    surface = slopes_to_normals(np.cos(x) * np.cos(y), np.sin(x) * np.sin(y))  # of sin(x) cos(y), y down
    twisted = slopes_to_normals(0.3 * y, 0 * y)
    inside = _hole()
    assert curl(surface, inside) < 1e-4
    assert curl(twisted, inside) == pytest.approx(0.3 / 20, rel=1e-3)
    values = measure(np.where(inside[..., None], twisted, surface), surface, inside, ALL)
    assert values["curl"] > 50 * values["curl_true"]
    assert np.isnan(values["curl_ratio"])  # an exact surface's curl is rounding, nothing to compare with
    values = measure(
        np.where(inside[..., None], slopes_to_normals(0.6 * y, 0 * y), twisted), twisted, inside, ALL
    )
    assert values["curl_ratio"] == pytest.approx(2, rel=0.01)


def test_a_seam_is_a_step_across_the_border_alone() -> None:
    truth = skin_map(np.random.default_rng(2), SIZE)
    hole = _hole()
    assert seam(truth, hole, ALL) == pytest.approx(1, abs=0.3)
    stepped = np.where(hole[..., None], _tilted(30), truth)
    assert seam(stepped, hole, ALL) > 3


@pytest.mark.parametrize("name", ["Telea", "Navier-Stokes", "harmonic", "biharmonic", "PatchMatch"])
def test_classic_fills_fill_the_hole_and_nothing_else(name: str) -> None:
    if name not in baselines.available(lambda _: None):
        pytest.skip(f"{name} cannot run here: {baselines.WITHOUT_PATCHMATCH}")
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    truth = slopes_to_normals(0.6 * x - 0.3, 0.4 * y - 0.2)
    valid = ALL.copy()
    valid[:, :8] = False
    truth[~valid] = 0
    hole = _hole(0.15)
    damaged = np.where(hole[..., None], np.float32(-1), truth).astype(np.float32)
    filled = baselines.BASELINES[name](damaged, hole, valid)
    assert np.array_equal(filled[~hole], truth[~hole])
    assert np.allclose(np.linalg.norm(filled[hole], axis=-1), 1, atol=1e-4)
    # What the hole held does not matter, and a slowly bending surface is gone on with.
    assert metrics.angles(filled, truth)[hole].mean() < (1.0 if "harmonic" in name else 6.0)


def test_what_is_not_installed_is_said_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "patchmatch", None)
    said: list[str] = []
    fills = baselines.available(said.append)
    assert "PatchMatch" not in fills and len(fills) == 4
    assert "pip install pypatchmatch" in said[0]


def _layout(rng: np.random.Generator) -> Any:
    """A dome with a bump somewhere, as a head's object-space map."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    cx, cy = rng.uniform(-0.2, 0.2, 2)
    bump = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.01)
    n = slopes_to_normals(2 * x + 10 * (x - cx) * bump, -2 * y)
    valid = np.hypot(x, y) < 0.45
    n[~valid] = 0
    return n, valid


class _Domes:
    """Heads that are domes with a sharp bump somewhere, laid out as seen from the front."""

    def __init__(self, cells: int = 60) -> None:
        at = np.linspace(0, 1, cells + 1)
        v, u = np.meshgrid(at, at, indexing="ij")
        first = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
        corners = [(first, first + 1, first + cells + 2), (first, first + cells + 2, first + cells + 1)]
        self._triangles = np.concatenate([np.stack(three, axis=1) for three in corners]).astype(np.int32)
        self._places = np.stack([u, v], axis=-1).reshape(-1, 2).astype(np.float32)

    def head(self, rng: np.random.Generator) -> Head:
        x, y = 16 * (self._places.T - 0.5)
        cx, cy = rng.uniform(-3, 3, 2)
        z = 9 - 0.06 * (x**2 + y**2) + 0.6 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.15)
        vertices = np.stack([x, y, z], axis=1).astype(np.float32)
        return Head(vertices, vertex_normals(vertices, self._triangles), self._triangles)

    def worn(self) -> Any:
        return self._triangles, self._places[self._triangles] * 0.9 + np.float32(0.05)


def test_object_cases_lie_on_a_mesh_without_their_finer_forms() -> None:
    cases = evaluate.object_cases(_Domes(), "ict", 2, 96, 1)
    assert {case.name for case in cases} == {"ict 0", "ict 1"}
    for case in cases[:: len(evaluate.FAMILIES)]:
        assert case.space == "object" and case.mesh is not None
        shown = case.mesh.frames(Grid.blocks((96, 96)))
        off = angles(shown.normals, case.truth)[case.valid]
        assert np.median(off) < 1 < 8 < off.max()
    skin, again = (evaluate.object_cases(_Domes(), "ict", 2, 96, 1, skin=0.05) for _ in range(2))
    for bare, worn, same in zip(cases, skin, again, strict=True):
        assert np.array_equal(bare.hole, worn.hole) and np.array_equal(worn.truth, same.truth)
        assert np.allclose(np.linalg.norm(worn.truth[worn.valid], axis=-1), 1, atol=1e-4)
        assert 0.5 < angles(bare.truth, worn.truth)[bare.valid].mean() < 6


def test_layouts_that_are_not_symmetric_hide_an_eye_a_side_and_the_nose() -> None:
    cases = evaluate.layout_cases(_Domes(), "ict", 1, 96, 1)
    assert {case.family for case in cases} >= {"bent, side", "islands, side", "bent, nose", "islands, nose"}
    for case in cases:
        assert case.space == "tangent" and case.mesh is not None and not (case.hole & ~case.valid).any()
        assert np.allclose(np.linalg.norm(case.truth[case.valid], axis=-1), 1, atol=1e-4)
        shown = case.mesh.covers(Grid.blocks((96, 96)))
        assert (shown == case.valid).mean() > 0.99
        mirrored = case.valid[:, ::-1]
        assert (case.valid != mirrored).mean() > 0.01
    again = evaluate.layout_cases(_Domes(), "ict", 1, 96, 1)
    assert all(np.array_equal(a.truth, b.truth) for a, b in zip(cases, again, strict=True))


def test_both_sides_of_seams_are_compared_where_a_hole_crosses_one() -> None:
    cases = {case.family: case for case in evaluate.layout_cases(_Domes(), "ict", 1, 96, 1)}
    whole, cut = cases["bent, nose"], cases["islands, nose"]
    assert np.isnan(list(evaluate.at_seams(whole, whole.truth).values())).all()
    right = cut.truth.copy()
    same = evaluate.at_seams(cut, right)
    assert same["seams"] == same["seams_true"] > 0
    # One of both halves has come back tilted.
    half = cut.hole & (np.arange(96) > 48)
    assert half.any() and (cut.hole & ~half).any()
    right[half] = (0.6, 0, 0.8)
    off = evaluate.at_seams(cut, right)
    assert off["seams"] > 1.5 * same["seams"] and off["seams_true"] == same["seams_true"]


def test_smoothing_is_towards_the_neighbours() -> None:
    triangles = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1]], np.int32)
    vertices = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [5, 5, 5]], np.float32)
    moved = evaluate.smoothed(vertices, triangles, 1)
    assert np.allclose(moved[0], [0, 0, 0.5]) and np.allclose(moved[5], 5)
    assert np.allclose(evaluate.smoothed(vertices, triangles, 2), evaluate.smoothed(moved, triangles, 1))
    assert np.array_equal(evaluate.smoothed(vertices, triangles, 0), vertices)


def test_tangent_cases_are_skin_and_faces_with_every_family() -> None:
    cases = evaluate.tangent_cases(_layout, 2, SIZE, 1)
    assert {case.name for case in cases} == {"skin 0", "face 1"}
    assert {case.family for case in cases} == set(evaluate.FAMILIES)
    for case in cases:
        assert case.space == "tangent" and case.hole.any() and not (case.hole & ~case.valid).any()
        assert np.allclose(np.linalg.norm(case.truth[case.valid], axis=-1), 1, atol=1e-4)
        assert np.median(case.truth[case.valid][:, 2]) > 0.7
    again = evaluate.tangent_cases(_layout, 2, SIZE, 1)
    other = evaluate.tangent_cases(_layout, 2, SIZE, 2)
    assert all(np.array_equal(a.hole, b.hole) for a, b in zip(cases, again, strict=True))
    assert not np.array_equal(cases[0].truth, other[0].truth)


def test_heads_can_wear_skin_and_keep_their_shape_and_masks() -> None:
    longitude, latitude = np.meshgrid(np.linspace(-np.pi, np.pi, 41), np.linspace(-1.57, 1.57, 41))
    x, y = np.cos(latitude) * np.sin(longitude), np.sin(latitude)
    vertices = 9 * np.stack([x, y, np.cos(latitude) * np.cos(longitude)], axis=-1).reshape(-1, 3)
    vertices = vertices.astype(np.float32)
    first = (np.arange(40)[:, None] * 41 + np.arange(40)).ravel()
    corners = [(first, first + 1, first + 42), (first, first + 42, first + 41)]
    triangles = np.concatenate([np.stack(three, axis=1) for three in corners]).astype(np.int32)
    ears = vertices * np.where(np.abs(vertices[:, :1]) > 8, 1.2, 1).astype(np.float32)
    ears[:, 2] += 2 * np.exp(-(vertices[:, 0] ** 2 + vertices[:, 1] ** 2) / 4) * (vertices[:, 2] > 0)
    head = Head(ears, vertex_normals(ears, triangles), triangles)
    bare, worn = (head_cases(lambda rng: head, "ict", 1, 96, 3, skin) for skin in (0.0, 0.05))
    assert [case.family for case in bare] == [case.family for case in worn] and len(bare) >= 4
    for one, two in zip(bare, worn, strict=True):
        assert np.array_equal(one.hole, two.hole) and np.array_equal(one.valid, two.valid)
    apart = angles(bare[0].truth, worn[0].truth)[bare[0].valid]
    assert 0.3 < apart.mean() < 6


def test_heads_can_be_changed_by_what_no_head_has() -> None:
    y, x = np.mgrid[-1:1:33j, -1:1:33j]
    vertices = np.stack([9 * x, 12 * y, 8 - 7 * (x**2 + y**2)], axis=-1).reshape(-1, 3).astype(np.float32)
    first = (np.arange(32)[:, None] * 33 + np.arange(32)).ravel()
    corners = [(first, first + 1, first + 34), (first, first + 34, first + 33)]
    triangles = np.concatenate([np.stack(three, axis=1) for three in corners]).astype(np.int32)
    head = Head(vertices, vertex_normals(vertices, triangles), triangles)
    plain, *free = (
        head_cases(lambda rng: head, "ict", 1, 96, 3, free=strength) for strength in (0.0, 0.1, 0.1)
    )
    off = angles(plain[0].truth, free[0][0].truth)[plain[0].valid & free[0][0].valid]
    assert 2 < off.mean() < 30
    assert np.array_equal(free[0][0].truth, free[1][0].truth)


def test_scanned_heads_are_measured_from_mesh_files(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(4, 9.0)
    nose = np.exp(-((ball.vertices - [0, 0, 9]) ** 2).sum(axis=1) / 6)
    ball.vertices = ball.vertices + 2 * nose[:, None] * np.array([0, 0, 1])
    ball.export(tmp_path / "one.ply")
    cases = evaluate.mesh_cases(tmp_path, "y", 2, 96, 3)
    assert {case.name for case in cases} == {"one 0", "one 1"} and {c.space for c in cases} == {"camera"}
    assert {case.family for case in cases} == set(evaluate.FAMILIES)
    first, second = (next(c for c in cases if c.name == name) for name in ("one 0", "one 1"))
    assert first.valid.mean() > 0.2 and not np.array_equal(first.truth, second.truth)
    again = evaluate.mesh_cases(tmp_path, "y", 2, 96, 3)
    assert all(np.array_equal(a.hole, b.hole) for a, b in zip(cases, again, strict=True))


def test_maps_are_turned_and_their_vectors_as_their_space_has_it() -> None:
    (camera, *_), (layout, *_) = (
        [replace(case, space=space) for case in evaluate.object_cases(_Domes(), "ict", 1, SIZE, 1)]
        for space in ("camera", "object")
    )
    assert evaluate.turned(layout, 0) is layout and layout.mesh is not None
    for quarters in (1, 2, 3):
        one, other = (evaluate.turned(case, quarters) for case in (camera, layout))
        assert np.array_equal(one.hole, np.rot90(camera.hole, quarters)) and one.mesh is other.mesh is None
        assert np.array_equal(other.truth, np.rot90(layout.truth, quarters))
        # Of a dome seen from above, what lies further right points right, whichever way it is turned.
        x = np.broadcast_to(np.arange(SIZE), one.valid.shape)[one.valid]
        assert np.corrcoef(x, one.truth[one.valid][:, 0])[0, 1] > 0.5
        back = evaluate.turned(one, 4 - quarters)
        assert np.array_equal(back.truth, camera.truth) and np.array_equal(back.valid, camera.valid)


def test_evaluation_measures_methods_by_family_and_reports(tmp_path: Path) -> None:
    cases = evaluate.tangent_cases(_layout, 2, SIZE, 1) + evaluate.object_cases(_Domes(), "ict", 1, SIZE, 1)
    spaces: list[str] = []

    def flat(case: evaluate.Case) -> Any:
        spaces.append(case.space)
        return np.where(case.hole[..., None], np.array([0, 0, 1], np.float32), case.truth)

    methods = {"harmonic": evaluate.classic(baselines.harmonic), "flat": flat}
    tables = {
        "Tangent space": evaluate.evaluate(
            [c for c in cases if c.space == "tangent"], methods, tmp_path / "sheets", lambda _: None
        ),
        "Object space": evaluate.evaluate(
            [c for c in cases if c.space == "object"], methods, None, lambda _: None
        ),
    }
    assert set(spaces) == {"tangent", "object"}
    for table in tables.values():
        assert set(table) == set(methods) and set(table["flat"]) <= set(evaluate.FAMILIES)
        assert table["harmonic"]["lines"]["mean"] < table["flat"]["lines"]["mean"]
    assert tables["Tangent space"]["flat"]["blob"]["detail"] < 0.05
    text = evaluate.write_report(tables, tmp_path, "Held-out maps").read_text(encoding="utf-8")
    for word in ("## Tangent space", "## Object space", "| p95 |", "| detail_octave_2 |", "| curl_true |"):
        assert word in text
    assert json.loads((tmp_path / "table.json").read_text())["Object space"]["flat"]["half"]["mean"] > 0
    assert (tmp_path / "sheets" / "flat_blob.png").exists()


def test_a_large_map_is_shown_small_and_a_part_of_it_as_it_is() -> None:
    size, side = 1200, sheets.CLOSE_UP
    truth = np.zeros((size, size, 3), np.float32)
    truth[..., 2] = 1
    truth[::2, :, 0], truth[::2, :, 2] = 0.6, 0.8  # stripes that only a part at full size can show
    hole = np.zeros((size, size), bool)
    hole[:, 700:] = True
    valid = np.ones_like(hole)
    whole, part = sheets.rows_of(truth, hole, valid, truth)
    assert whole.shape == part.shape == (side, 7 * side, 3)
    stripes = [np.abs(np.diff(tile[:, 2 * side : 3 * side, 0], axis=0)).mean() for tile in (whole, part)]
    assert stripes[0] < 0.15 < stripes[1]
    # The border of the hole runs through the part.
    shares = [tile[:, side : 2 * side].mean() for tile in (whole, part)]
    assert shares == pytest.approx([500 / 1200, 0.5], abs=0.01)
    assert len(sheets.rows_of(truth[:96, :96], hole[:96, :96], valid[:96, :96], truth[:96, :96])) == 1


def test_the_shipped_path_knows_the_space_of_a_case() -> None:
    """The bundled weights fill a tangent-space hole at least as well as a flat texel would."""
    case = evaluate.tangent_cases(_layout, 1, SIZE, 3)[0]
    filled = evaluate.ours(detail=False)(case)
    inside = case.hole
    assert np.allclose(np.linalg.norm(filled[inside], axis=-1), 1, atol=1e-4)
    assert np.array_equal(filled[~inside], case.truth[~inside])
    flat = np.where(inside[..., None], np.array([0, 0, 1], np.float32), case.truth)
    error = metrics.angles(filled, case.truth)[inside].mean()
    assert error < 1.2 * metrics.angles(flat, case.truth)[inside].mean()


def test_a_network_by_itself_sees_the_map_small_and_its_answer_is_enlarged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    class Leaning:
        """Answers vectors that lean the further right the further right they lie."""

        class card:  # noqa: N801
            working_size = SIZE // 2

        def run(self, batch: Any) -> Any:
            seen.append(batch)
            lean = np.broadcast_to(np.linspace(-0.5, 0.5, batch.shape[-1]), batch.shape[-2:])
            answer = np.stack([lean, 0 * lean, np.sqrt(1 - lean**2)])
            return np.asarray(answer[None], np.float32)

    monkeypatch.setattr(evaluate, "create_engine", lambda *_, **__: (Leaning(), None))
    case = replace(evaluate.tangent_cases(_layout, 1, SIZE, 3)[0], space="camera")
    filled = evaluate.alone()(case)
    (batch,) = seen
    assert batch.shape == (1, 11, SIZE // 2, SIZE // 2) and 0 < batch[0, 3].mean() < 1
    inside = case.hole & case.valid
    assert np.array_equal(filled[~inside], case.truth[~inside])
    right = np.interp(
        (np.arange(SIZE) + 0.5) / 2 - 0.5, np.arange(SIZE // 2), np.linspace(-0.5, 0.5, SIZE // 2)
    )
    assert np.abs(filled[..., 0] - right)[inside].max() < 0.02 and np.abs(filled[..., 1])[inside].max() < 1e-5
