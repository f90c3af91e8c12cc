from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import test_core_tiles as tiling
from synthetic import ROOT, FakeEngine, disc, wavy_normals
from test_core_basemesh import mesh, true_normals, write_obj
from test_core_files import samples, spec_of, write_raw

from blender_normal_inpaint import __main__ as cli
from blender_normal_inpaint.core import files, normals
from blender_normal_inpaint.core.errors import InpaintError
from blender_normal_inpaint.core.modelcard import default_card_path
from blender_normal_inpaint.core.normals import Encoding
from blender_normal_inpaint.worker import engines

SIZE = 72, 88
MASK = disc(*SIZE, 36, 40, 13) | disc(*SIZE, 71, 87, 9)


@pytest.fixture(autouse=True)
def no_weights_needed(monkeypatch, request):
    """The command line with an engine that needs no weights; `asked` keeps what it was asked for."""
    asked = []
    if "bundled" not in request.node.name:

        def create(kind, **wishes):
            asked.append((kind, wishes))
            return FakeEngine(), ["A note about the engine."]

        monkeypatch.setattr(engines, "create_engine", create)
    return asked


def encoded(dtype, channels, encoding=None):
    """A damaged map with random alpha, and transparent texels that keep their colour."""
    colours = normals.encode(wavy_normals(*SIZE), encoding or Encoding(), dtype)
    pixels = np.dstack([colours, samples(dtype, 4, *SIZE)[..., 3]])[..., :channels].copy()
    if channels == 4:
        pixels[:3, :, 3] = 0
        if np.dtype(dtype).kind == "f":
            pixels[..., 3] = np.clip(np.abs(pixels[..., 3]), 0, 1)
    pixels[MASK, :3] = 0
    return pixels


def write_mask(path, mask=MASK):
    return write_raw(path, np.where(mask, 255, 0).astype(np.uint8)[..., None])


KINDS = [
    ("face.png", np.uint8, 3),
    ("face.png", np.uint8, 4),
    ("face.png", np.uint16, 3),
    ("face.png", np.uint16, 4),
    ("face.tif", np.uint16, 3),
    ("face.tif", np.uint16, 4),
    ("face.exr", np.float16, 3),
    ("face.exr", np.float16, 4),
    ("face.exr", np.float32, 3),
    ("face.exr", np.float32, 4),
]


@pytest.mark.parametrize(("name", "dtype", "channels"), KINDS)
def test_texels_outside_the_mask_and_alpha_keep_their_bits(tmp_path, capsys, name, dtype, channels):
    folder = tmp_path / "mit Leerzeichen ä 顔"
    folder.mkdir()
    before = encoded(dtype, channels)
    source = write_raw(folder / name, before)
    mask = write_mask(folder / "mask.png")
    target = folder / f"out {name}"
    assert cli.main([str(source), "--mask", str(mask), "-o", str(target), "--no-detail"]) == 0
    after = files.read_map(target).pixels
    assert after.dtype == before.dtype and after.shape == before.shape
    assert after[~MASK].tobytes() == before[~MASK].tobytes()
    if channels == 4:
        assert after[..., 3].tobytes() == before[..., 3].tobytes()
    assert (after[MASK, :3] != before[MASK, :3]).any(axis=-1).all()
    assert str(spec_of(target).format) == str(spec_of(source).format)
    assert spec_of(target).nchannels == channels
    out, err = capsys.readouterr()
    assert f"{int(MASK.sum())} of {SIZE[0] * SIZE[1]} texels repaired" in out
    assert "Note: A note about the engine." in err


def test_json_and_every_option(tmp_path, capsys, no_weights_needed):
    source = write_raw(tmp_path / "a.png", encoded(np.uint8, 3, Encoding("object", "down", "z")))
    mask, valid = write_mask(tmp_path / "m.png"), write_mask(tmp_path / "v.png", np.ones(SIZE, bool))
    arguments = [str(source), "--mask", str(mask), "--valid", str(valid), "-o", str(tmp_path / "o.png")]
    arguments += ["--weights", str(tmp_path / "card.json"), "--json"]
    arguments += ["--space", "object", "--y-axis", "down", "--up-axis", "z", "--engine", "onnx"]
    arguments += ["--device", "cpu", "--threads", "2", "--seed", "7", "--dilate", "2"]
    assert cli.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["engine"] == {"name": "fake", "device": "CPU", "model": "fake 1"}
    assert (report["done"], report["failed"], report["skipped"]) == (1, 0, 0)
    (entry,) = report["results"]
    assert entry["status"] == "done" and entry["hole_texels"] > MASK.sum() and entry["type"] == "uint8"
    assert no_weights_needed == [
        ("onnx", {"device": "cpu", "card_path": tmp_path / "card.json", "threads": 2})
    ]


def test_y_axis_down_is_passed_on(tmp_path):
    results = []
    mask = write_mask(tmp_path / "m.png")
    for y_axis in ("up", "down"):
        encoding = Encoding(y_axis=y_axis)
        source = write_raw(tmp_path / "a.exr", encoded(np.float32, 3, encoding))
        cli.main(f"{source} --mask {mask} -o {tmp_path / 'o.exr'} --y-axis {y_axis} --no-detail".split())
        results.append(normals.decode(files.read_map(tmp_path / "o.exr").pixels, encoding)[MASK])
    assert np.abs(results[0] - results[1]).max() < 1e-4


def test_jpeg_maps_become_png(tmp_path, capsys):
    write_raw(tmp_path / "a.png", encoded(np.uint8, 3))
    oiio = pytest.importorskip("OpenImageIO")
    jpeg = tmp_path / "a.jpg"
    target = oiio.ImageOutput.create(str(jpeg))
    target.open(str(jpeg), oiio.ImageSpec(SIZE[1], SIZE[0], 3, "uint8"))
    target.write_image(encoded(np.uint8, 3))
    target.close()
    mask = write_mask(tmp_path / "m.png")
    assert cli.main([str(jpeg), "--mask", str(mask), "-o", str(tmp_path / "o.jpg")]) == 1
    assert ".png" in capsys.readouterr().err and not (tmp_path / "o.jpg").exists()
    assert cli.main([str(jpeg), "--mask", str(mask), "-o", str(tmp_path / "o.png"), "--no-detail"]) == 0
    before, after = files.read_map(jpeg).pixels, files.read_map(tmp_path / "o.png").pixels
    assert np.array_equal(before[~MASK], after[~MASK])


def failing(tmp_path):
    """Single maps that cannot be repaired: code, and the arguments that lead there."""
    good = write_raw(tmp_path / "good.png", encoded(np.uint8, 3))
    mask = write_mask(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    nan = encoded(np.float32, 3)
    nan[0, 0] = np.nan
    grey = encoded(np.uint8, 3)
    grey[0, 0] = 128
    black = np.where(MASK[..., None], 200, 0).astype(np.uint8).repeat(3, axis=-1)
    (tmp_path / "text.png").write_text("hello")
    yield "mask_empty", good, write_mask(tmp_path / "empty.png", MASK & False), out, []
    yield "mask_full", good, write_mask(tmp_path / "full.png", MASK | True), out, []
    yield "size_mismatch", good, write_mask(tmp_path / "other.png", np.eye(30, 90) > 0), out, []
    yield "bad_size", write_raw(tmp_path / "tiny.png", samples(np.uint8, 3, 9, 9)), mask, out, []
    yield "not_finite", write_raw(tmp_path / "nan.exr", nan), mask, tmp_path / "out.exr", []
    everything = write_mask(tmp_path / "valid.png", MASK | True)
    yield "zero_length", write_raw(tmp_path / "grey.png", grey), mask, out, ["--valid", str(everything)]
    yield "no_context", write_raw(tmp_path / "black.png", black), mask, out, []
    yield "unreadable", tmp_path / "text.png", mask, out, []
    yield "unreadable", tmp_path / "none.png", mask, out, []
    yield "unreadable", good, tmp_path / "none.png", out, []
    yield "unsupported_format", write_raw(tmp_path / "g.png", samples(np.uint8, 1, *SIZE)), mask, out, []
    yield "unsupported_format", good, mask, tmp_path / "out.jpg", []
    yield "not_writable", good, mask, tmp_path / "no" / "out.png", []


def test_every_failure_is_one_sentence_and_a_hint_and_leaves_no_file(tmp_path, capsys):
    for code, source, mask, out, more in failing(tmp_path):
        files_before = sorted(tmp_path.iterdir())
        arguments = [str(source), "--mask", str(mask), "-o", str(out), *more]
        assert cli.main([*arguments, "--json"]) == 1, code
        report = json.loads(capsys.readouterr().out)
        assert report["results"][0]["error"]["code"] == code, source.name
        assert cli.main(arguments) == 1
        err = capsys.readouterr().err
        message, hint = err.split("Error: ")[1].rstrip().split("\n    ")
        assert message.endswith(".") and hint.endswith(".") and "Traceback" not in err
        assert sorted(tmp_path.iterdir()) == files_before


def test_an_engine_that_cannot_start_is_reported(tmp_path, capsys, monkeypatch):
    def create(kind, **wishes):
        raise InpaintError("weights_missing")

    monkeypatch.setattr(engines, "create_engine", create)
    source = write_raw(tmp_path / "a.png", encoded(np.uint8, 3))
    mask = write_mask(tmp_path / "m.png")
    assert cli.main([str(source), "--mask", str(mask), "-o", str(tmp_path / "o.png"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["results"][0]["error"]["code"] == "weights_missing"


def test_the_unexpected_shows_where_it_came_from(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli.pipeline, "inpaint", lambda *a, **k: 1 / 0)
    source = write_raw(tmp_path / "a.png", encoded(np.uint8, 3))
    mask = write_mask(tmp_path / "m.png")
    assert cli.main([str(source), "--mask", str(mask), "-o", str(tmp_path / "o.png")]) == 1
    err = capsys.readouterr().err
    assert "division by zero" in err and "Traceback" in err


@pytest.mark.parametrize(
    "arguments",
    [
        "a.png -o b.png",
        "a.png --mask m.png",
        "a.png --mask m.png -o b.png --mask-suffix _mask",
        "FOLDER -o out",
        "FOLDER -o out --mask-suffix _mask --mask m.png",
        "a.png --mask m.png -o b.png --space world",
        "a.png --mask m.png -o b.png --dilate -1",
        "a.png --mask m.png -o b.png --threads 0",
    ],
)
def test_wrong_usage_exits_with_2(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments.replace("FOLDER", str(tmp_path)).split())
    assert caught.value.code == 2
    assert capsys.readouterr().err


# Folders -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    for name, dtype in (("a.png", np.uint8), ("b.exr", np.float16), ("c ä.tif", np.uint16)):
        write_raw(maps / name, encoded(dtype, 3))
    write_mask(maps / "a_mask.png")
    write_mask(maps / "b_mask.png")  # of another type than its map
    write_mask(maps / "c ä_mask.tif")
    (maps / "notes.txt").write_text("not an image")
    return maps


def test_the_other_half_helps_unless_it_is_not_wanted(tmp_path):
    truth = np.tile(wavy_normals(80, 80)[:, :40], (1, 2, 1))
    truth[:, 40:] = truth[:, :40][:, ::-1] * np.array([-1, 1, 1], np.float32)
    hole = disc(80, 80, 40, 18, 10)
    source = write_raw(tmp_path / "face.exr", normals.encode(truth, Encoding(), np.float32))
    mask = write_mask(tmp_path / "mask.png", hole)
    errors = []
    for more in ([], ["--no-symmetry"]):
        target = tmp_path / "out.exr"
        how = ["--mask", str(mask), "-o", str(target), "--space", "object", "--no-detail", *more]
        assert cli.main([str(source), *how]) == 0
        got = normals.decode_vectors(files.read_map(target).pixels, Encoding())
        errors.append(normals.angular_error(got, truth)[hole].mean())
    assert errors[0] < 0.3 * errors[1]


def test_a_mesh_shows_what_an_object_space_map_hides(tmp_path, capsys):
    truth, lies = true_normals(128)
    hole = disc(128, 128, 69, 64, 22)
    source = write_raw(tmp_path / "face.exr", normals.encode(truth, Encoding("object"), np.float32))
    mask, valid = write_mask(tmp_path / "mask.png", hole), write_mask(tmp_path / "valid.png", lies)
    head = write_obj(tmp_path / "head.obj", *mesh())
    target = tmp_path / "out.exr"
    how = [str(source), "--mask", str(mask), "--valid", str(valid), "-o", str(target), "--no-detail"]
    errors = []
    for more in ([], ["--mesh", str(head)]):
        assert cli.main([*how, "--space", "object", *more]) == 0
        got = normals.decode_vectors(files.read_map(target).pixels, Encoding("object"))
        errors.append(normals.angular_error(got, truth)[hole].mean())
    assert errors[1] < 2.5 and errors[1] < 0.3 * errors[0]
    target.unlink()
    assert cli.main([*how, "--space", "object", "--mesh", str(tmp_path / "missing.obj")]) == 1
    assert "missing.obj" in capsys.readouterr().err and not target.exists()
    with pytest.raises(SystemExit):
        cli.main([*how, "--space", "camera", "--mesh", str(head)])


def run_tiles(work, *more, output="new.<UDIM>.png"):
    where = [str(work / "face.<UDIM>.png"), "--mask", str(work / "hole.<UDIM>.png"), "-o", str(work / output)]
    return cli.main([*where, "--no-detail", *more])


def test_the_tiles_of_a_map(tmp_path, capsys):
    maps = {number: encoded(np.uint16, 3)[: SIZE[0] - number % 10] for number in (1001, 1002, 1003, 1011)}
    for number, pixels in maps.items():
        write_raw(tmp_path / f"face.{number}.png", pixels)
    for number in (1001, 1011):
        write_mask(tmp_path / f"hole.{number}.png", MASK[: len(maps[number])])
    write_mask(tmp_path / "hole.1003.png", np.zeros(maps[1003].shape[:2], bool))
    assert run_tiles(tmp_path, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["done"], report["copied"], report["failed"]) == (2, 2, 0)
    for number, source in maps.items():
        path = tmp_path / f"new.{number}.png"
        if number in (1002, 1003):
            assert path.read_bytes() == (tmp_path / f"face.{number}.png").read_bytes()
            continue
        hole, result = MASK[: len(source)], files.read_map(path).pixels
        assert np.array_equal(result[~hole], source[~hole])
        assert not np.array_equal(result[hole], source[hole])
    # Copies of another kind hold the same samples.
    assert run_tiles(tmp_path, output="new.<UDIM>.tif") == 0
    assert "2 repaired, 2 copied, 0 skipped, 0 failed" in capsys.readouterr().out
    assert np.array_equal(files.read_map(tmp_path / "new.1002.tif").pixels, maps[1002])
    # One bad tile is told, and the others are done.
    (tmp_path / "hole.1003.png").write_bytes(b"torn")
    for path in tmp_path.glob("new.*"):
        path.unlink()
    assert run_tiles(tmp_path) == 1
    assert "face.1003.png: The image hole.1003.png could not be read" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("new.*")) == [
        f"new.{n}.png" for n in (1001, 1002, 1011)
    ]
    for number in (1001, 1003, 1011):
        write_mask(tmp_path / f"hole.{number}.png", np.zeros(maps[number].shape[:2], bool))
    assert run_tiles(tmp_path) == 1 and "has a mask" in capsys.readouterr().err
    for wrong in (
        ["face.<UDIM>.png", "--mask", "hole.1001.png", "-o", "new.<UDIM>.png"],
        ["face.<UDIM>.png", "--mask", "hole.<UDIM>.png", "-o", "new.png"],
        ["face.1001.png", "--mask", "hole.<UDIM>.png", "-o", "new.png"],
    ):
        with pytest.raises(SystemExit):
            cli.main([str(tmp_path / name) if "." in name else name for name in wrong])


def test_each_tile_has_its_part_of_the_mesh(tmp_path, monkeypatch):
    vertices, corners, uv = mesh(12)
    moved = uv + np.array([1, 0], np.float32)
    head = write_obj(
        tmp_path / "head.obj",
        np.concatenate([vertices, vertices + 5]),
        np.concatenate([corners, corners[:100] + len(vertices)]),
        np.concatenate([uv, moved[:100]]),
    )
    for number in (1001, 1002, 1003):
        write_raw(tmp_path / f"face.{number}.png", encoded(np.uint8, 3))
        write_mask(tmp_path / f"hole.{number}.png")
    seen: dict[int, list[int]] = {}
    real = cli.pipeline.inpaint

    def spy(*positional, meshes=(), **named):
        seen[len(seen)] = [len(each.triangles) for each in meshes]
        return real(*positional, **named)

    monkeypatch.setattr(cli.pipeline, "inpaint", spy)
    assert run_tiles(tmp_path, "--mesh", str(head)) == 0
    assert seen == {0: [len(corners)], 1: [100], 2: []}
    seen.clear()
    one = ["--mask", str(tmp_path / "hole.1002.png"), "-o", str(tmp_path / "a.png"), "--mesh", str(head)]
    assert cli.main([str(tmp_path / "face.1002.png"), *one, "--no-detail"]) == 0
    assert seen == {0: [100]}


def test_tiles_meet_on_the_mesh(tmp_path):
    on = tiling.halves()
    head = write_obj(tmp_path / "head.obj", on.vertices, on.corners, on.uv)
    before, holes = {}, {}
    for number in (tiling.LEFT, tiling.RIGHT):
        before[number], holes[number] = tiling.tile_of(on, number, dtype=np.uint16)
        before[number][holes[number]] = 0
        lies = on.base(number).covers(tiling.Grid.blocks(holes[number].shape))
        write_raw(tmp_path / f"face.{number}.png", before[number])
        write_mask(tmp_path / f"hole.{number}.png", holes[number])
        write_mask(tmp_path / f"skin.{number}.png", lies)

    def apart(output, *more):
        assert run_tiles(tmp_path, "--valid", str(tmp_path / "skin.<UDIM>.png"), *more, output=output) == 0
        after = {n: files.read_map(tmp_path / output.replace("<UDIM>", str(n))).pixels for n in before}
        for number, pixels in after.items():
            assert np.array_equal(pixels[~holes[number]], before[number][~holes[number]])
        return after, tiling.apart(on, after, holes, Encoding())

    alone, far = apart("alone.<UDIM>.png")
    met, near = apart("met.<UDIM>.png", "--mesh", str(head))
    assert far > 2 and near < 0.5 * far
    # A tile that is there already holds still.
    write_raw(tmp_path / f"late.{tiling.RIGHT}.png", alone[tiling.RIGHT])
    late, near = apart("late.<UDIM>.png", "--mesh", str(head), "--skip-existing")
    assert np.array_equal(late[tiling.RIGHT], alone[tiling.RIGHT]) and near < 0.5 * far
    assert not np.array_equal(late[tiling.LEFT], met[tiling.LEFT])


def run_folder(folder, out, *more):
    return cli.main([str(folder), "--mask-suffix", "_mask", "-o", str(out), "--no-detail", *more])


def test_a_folder_of_maps(folder, tmp_path, capsys):
    half = np.ones(SIZE, bool)
    half[:, 60:] = False
    write_mask(folder / "a_valid.png", half)
    out = tmp_path / "new" / "out"
    assert run_folder(folder, out, "--valid-suffix", "_valid") == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.exr", "c ä.tif"]
    for name in ("a.png", "b.exr", "c ä.tif"):
        before, after = files.read_map(folder / name).pixels, files.read_map(out / name).pixels
        assert before.dtype == after.dtype and before[~MASK].tobytes() == after[~MASK].tobytes()
        changed = (before != after).any(axis=-1)
        assert changed.any() and (name != "a.png" or not changed[:, 60:].any())
    written = capsys.readouterr()
    assert "3 repaired, 0 skipped, 0 failed" in written.out
    assert "[3/3] c ä.tif: done" in written.err


def test_one_bad_file_does_not_stop_the_others(folder, tmp_path, capsys):
    (folder / "b.exr").write_bytes(b"broken")
    write_raw(folder / "lonely.png", encoded(np.uint8, 3))
    out = tmp_path / "out"
    assert run_folder(folder, out, "--json") == 1
    written = capsys.readouterr()
    report = json.loads(written.out)
    assert (report["done"], report["failed"]) == (2, 2)
    codes = {os.path.basename(e["normal"]): e["error"]["code"] for e in report["results"] if "error" in e}  # noqa: PTH119
    assert codes == {"b.exr": "unreadable", "lonely.png": "no_mask"}
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "c ä.tif"]
    assert "b.exr: The image b.exr could not be read." in written.err


def test_skip_existing(folder, tmp_path, capsys, no_weights_needed):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_text("already there")
    assert run_folder(folder, out, "--skip-existing", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["done"], report["skipped"]) == (2, 1)
    assert (out / "a.png").read_text() == "already there"
    no_weights_needed.clear()
    assert run_folder(folder, out, "--skip-existing") == 0
    assert no_weights_needed == []  # nothing to do: no network is loaded


def test_folders_that_make_no_sense(folder, tmp_path, capsys):
    assert run_folder(folder, folder) == 1
    assert "replace the maps" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run_folder(tmp_path / "empty", tmp_path / "out") == 1
    assert "no normal maps" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert run_folder(folder, tmp_path / "file" / "out") == 1


def test_two_maps_with_one_result_are_told_apart(folder, tmp_path, capsys):
    oiio = pytest.importorskip("OpenImageIO")
    target = oiio.ImageOutput.create(str(folder / "a.jpg"))
    target.open(str(folder / "a.jpg"), oiio.ImageSpec(SIZE[1], SIZE[0], 3, "uint8"))
    target.write_image(encoded(np.uint8, 3))
    target.close()
    assert run_folder(folder, tmp_path / "out", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["done"], report["failed"]) == (3, 1)


def test_ctrl_c_stops_cleanly(folder, tmp_path, capsys, monkeypatch):
    def interrupt(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.pipeline, "inpaint", interrupt)
    assert run_folder(folder, tmp_path / "out") == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_the_progress_bar_is_drawn_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = cli._Bar(2, quiet=False)
    bar.start("face.png")
    bar.show(0.5, "Closing the seam", force=True)
    bar.end("done")
    drawn = capsys.readouterr().err
    assert "25% face.png Closing the seam" in drawn and " 50% face.png" in drawn and "\r" in drawn


# The bundled network -------------------------------------------------------------------------------------


@pytest.mark.skipif(not default_card_path().is_file(), reason="the bundled weights are not there")
@pytest.mark.parametrize("space", ["tangent", "camera"])
def test_the_bundled_network_from_a_shell(tmp_path, space):
    pytest.importorskip("onnxruntime")
    before = encoded(np.uint16, 4)
    source = write_raw(tmp_path / "Gesicht ä.png", before)
    mask = write_mask(tmp_path / "mask.png")
    command = [
        sys.executable,
        "-m",
        "blender_normal_inpaint",
        str(source),
        "--mask",
        str(mask),
        "--space",
        space,
    ]
    command += ["-o", str(tmp_path / "out.png"), "--engine", "onnx", "--threads", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["engine"]["name"] == "onnx"
    after = files.read_map(tmp_path / "out.png").pixels
    assert after[~MASK].tobytes() == before[~MASK].tobytes()
    vectors = normals.decode_vectors(after, Encoding(space))[MASK]
    assert np.abs(np.linalg.norm(vectors, axis=-1) - 1).max() < 1e-3
