"""Messages survive the trip, and nothing that is not exactly a message gets through."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from blender_normal_inpaint.worker import protocol
from blender_normal_inpaint.worker.protocol import (
    Cancel,
    Done,
    Failed,
    Fill,
    Hello,
    Progress,
    ProtocolError,
    ReadMap,
    StartFailed,
    WriteMap,
    decode_answer,
    decode_request,
    encode,
    read_array,
    read_pixels,
    storage_error,
    write_array,
)

FILL = Fill(
    id=7,
    folder="r7",
    arrays={"hole": [3, 4], "normals": [3, 4, 3]},
    fields={"space": "tangent", "seed": -1, "detail": True, "symmetry": False, "pores": True, "wide": None},
)
WRITE = WriteMap(id=8, folder="r8", shape=(3, 4, 4), dtype="<u2", path="C:\\Gesicht ß\n.png", form="png")
READ = ReadMap(id=9, folder="r9", path="/tmp/Gesicht ß\n.1002.png", mask=True)
HELLO = Hello(
    protocol=protocol.VERSION,
    engine="onnx",
    device="CPU",
    model="m 1",
    weights_sha256="ab",
    python="/usr/bin/python3",
    pid=1,
    handles_files=True,
    notices=("é", "b"),
)


@pytest.mark.parametrize("request_", [FILL, WRITE, READ, Cancel(3)])
def test_requests_survive_the_trip(request_: protocol.Request) -> None:
    line = encode(request_)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_request(line) == request_


@pytest.mark.parametrize(
    "answer",
    [
        HELLO,
        StartFailed({"code": "worker_start"}),
        Progress(1, 0.25, "half\nway"),
        Done(1, "CPU", ("one",)),
        Failed(2, {"code": "x"}),
    ],
)
def test_answers_survive_the_trip(answer: protocol.Answer) -> None:
    assert decode_answer(encode(answer)) == answer


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"hello\n",
        b"\xff\xfe\n",
        b"[1]\n",
        b"{}\n",
        b'{"type":["done"]}\n',
        b'{"type":"unknown","id":1}\n',
        b'{"type":"cancel"}\n',
        b'{"type":"cancel","id":"1"}\n',
        b'{"type":"cancel","id":true}\n',
        b'{"type":"cancel","id":1.5}\n',
        b'{"type":"cancel","id":1e400}\n',
        b'{"type":"cancel","id":NaN}\n',
        b'{"type":"cancel","id":1,"more":2}\n',
        b'{"type":"cancel","id":1}{"type":"cancel","id":1}\n',
        b'{"type":"done","id":1,"device":"","notices":[]}\n',
        encode(FILL).replace(b'"r7"', b'"../r7"'),
        encode(FILL).replace(b'"r7"', b'"r7\\n"'),
        encode(FILL).replace(b"[3,4]", b"[0,4]"),
        encode(FILL).replace(b"[3,4]", b"[3,99999999]"),
        encode(FILL).replace(b"[3,4]", b'"3x4"'),
        encode(FILL).replace(b'"hole"', b'"../hole"'),
        encode(WRITE).replace(b"[3,4,4]", b"[3]"),
        encode(WRITE).replace(b"<u2", b"|O"),
        encode(READ).replace(b'"r9"', b'"/r9"'),
        encode(READ).replace(b"true", b"1"),
        b"[" * 100_000,
    ],
)
def test_what_is_no_request_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_request(line)


@pytest.mark.parametrize(
    "line",
    [
        encode(FILL),
        b'{"type":"progress","id":1,"fraction":NaN,"text":""}\n',
        b'{"type":"progress","id":1,"fraction":"0.5","text":""}\n',
        b'{"type":"done","id":1,"device":"","notices":"one"}\n',
        b'{"type":"done","id":1,"device":"","notices":[1]}\n',
        b'{"type":"failed","id":1,"error":"bad"}\n',
        encode(HELLO).replace(b'"engine":"onnx",', b""),
    ],
)
def test_what_is_no_answer_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(line)


def test_another_version_is_named_even_if_its_hello_looks_different() -> None:
    line = json.dumps({"type": "hello", "protocol": 99, "colour": "green"}).encode()
    with pytest.raises(ProtocolError, match="version 99"):
        decode_answer(line)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 4, 3),
        np.array([[True, False]]),
        np.arange(12, dtype=np.uint16).reshape(3, 4)[:, ::2],
        np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        np.zeros((0, 3), np.float32),
    ],
)
def test_arrays_survive_the_trip_and_numpy_reads_them_too(array: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "ärray one.npy"
    write_array(path, array)
    back = read_array(path, array.shape, array.dtype.str)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), array)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_array_of_objects_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="objects"):
        write_array(tmp_path / "a.npy", np.array([{}, []], dtype=object))


def test_a_file_must_hold_exactly_the_promised_array(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = np.ones((4, 5, 3), np.float32)
    write_array(path, array)
    whole = path.read_bytes()
    for shape, dtype in (((4, 5), "<f4"), ((5, 4, 3), "<f4"), ((4, 5, 3), "<f8"), ((4, 5, 3), "<i4")):
        with pytest.raises(ValueError, match="holds"):
            read_array(path, shape, dtype)
    for damaged in (b"", whole[:5], whole[:40], whole[:-1], whole + b"x", b"\x80\x04N.", b"PK" + whole):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.npy"):
            read_array(path, (4, 5, 3), "<f4")
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        read_array(path, (4, 5, 3), "<f4")


def test_pixels_of_unknown_size_must_be_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    pixels, mask = np.arange(60, dtype="<u2").reshape(4, 5, 3), np.eye(4, dtype=bool)
    for array, is_mask in ((pixels, False), (mask, True)):
        write_array(path, array)
        back = read_pixels(path, mask=is_mask)
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
        with pytest.raises(ValueError, match="holds"):
            read_pixels(path, mask=not is_mask)
    for other in (pixels[0], pixels.astype("<f8"), pixels[:0], mask[None]):
        write_array(path, other)
        with pytest.raises(ValueError, match="holds"):
            read_pixels(path, mask=False)
    # A header that promises more than the file holds asks for no memory.
    write_array(path, pixels)
    path.write_bytes(
        path.read_bytes().replace(b"(4, 5, 3)", b"(999999, 999999, 3)").replace(b" " * 10, b"", 1)
    )
    with pytest.raises(ValueError, match="cut short"):
        read_pixels(path, mask=False)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "opened",))  # type: ignore[return-value]

    path = tmp_path / "a.npy"
    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds"):
        read_array(path, (1,), "<f4")
    assert not (tmp_path / "opened").exists()


def test_a_header_cannot_ask_for_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1 << 20)}
        )
    with pytest.raises(ValueError, match="holds"):
        read_array(path, (4, 4), "<f4")


def test_storage_errors_say_what_to_do(tmp_path: Path) -> None:
    full = storage_error(OSError(errno.ENOSPC, "No space left"), "the crop", tmp_path)
    assert full.code == "disk_full"
    assert str(tmp_path) in full.detail
    assert storage_error(PermissionError(errno.EACCES, "denied"), "the crop", tmp_path).code == "not_writable"
