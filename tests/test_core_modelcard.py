from __future__ import annotations

import hashlib
import json

import pytest
from synthetic import fake_card

from blender_normal_inpaint.core.errors import InpaintError
from blender_normal_inpaint.core.modelcard import default_card_path, load_card, sha256_of, verify


@pytest.fixture
def card_path(tmp_path):
    weights = b"weights" * 1000
    (tmp_path / "net.onnx").write_bytes(weights)
    fields = fake_card().to_dict()
    digest = hashlib.sha256(weights).hexdigest()
    fields["files"] = {"onnx": {"file": "net.onnx", "sha256": digest.upper(), "bytes": len(weights)}}
    path = tmp_path / "net.json"
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path


def change(path, **fields):
    data = json.loads(path.read_text(encoding="utf-8"))
    data.update(fields)
    path.write_text(json.dumps(data), encoding="utf-8")


def with_need(path):
    """The card's files, the ONNX one in need of a second one that is made here."""
    files = json.loads(path.read_text(encoding="utf-8"))["files"]
    files["onnx"] |= {"sha256": files["onnx"]["sha256"].lower(), "needs": ["safetensors"]}
    (path.parent / "net.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    return files | {"safetensors": {"file": "net.safetensors", "sha256": digest, "bytes": 7}}


def code_of(call):
    with pytest.raises(InpaintError) as caught:
        call()
    return caught.value.code


def test_a_good_card_is_read_and_its_weights_verified(card_path):
    card = load_card(card_path)
    assert card.working_size == 128 and card.spaces == ("tangent", "object", "camera")
    assert verify(card, "onnx") == card_path.parent / "net.onnx"
    assert sha256_of(card_path.parent / "net.onnx") == card.files["onnx"].sha256
    assert {**card.to_dict(), "files": None} == {**json.loads(card_path.read_text()), "files": None}


def test_missing_and_damaged_weights(card_path):
    card = load_card(card_path)
    weights = card_path.parent / "net.onnx"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    assert code_of(lambda: verify(card, "onnx")) == "weights_damaged"
    weights.write_bytes(data[:-5])
    assert code_of(lambda: verify(card, "onnx")) == "weights_damaged"
    weights.unlink()
    assert code_of(lambda: verify(card, "onnx")) == "weights_missing"
    assert code_of(lambda: verify(card, "safetensors")) == "weights_missing"
    with pytest.raises(ValueError, match="pickle"):
        verify(card, "pickle")


def test_what_a_file_needs_is_verified_with_it(card_path):
    change(card_path, files=(files := with_need(card_path)))
    card = load_card(card_path)
    assert card.files["onnx"].needs == ("safetensors",)
    assert card.to_dict()["files"] == files
    assert verify(card, "onnx") == card_path.parent / "net.onnx"
    (card_path.parent / "net.onnx").rename(card_path.parent / "aside")
    # Only one way: the other file can be used by itself.
    assert verify(card, "safetensors") == card_path.parent / "net.safetensors"
    (card_path.parent / "aside").rename(card_path.parent / "net.onnx")
    needed = card_path.parent / "net.safetensors"
    needed.write_bytes(b"wEights")
    with pytest.raises(InpaintError, match=r"net\.safetensors does not match") as caught:
        verify(card, "onnx")
    assert caught.value.code == "weights_damaged"
    needed.unlink()
    with pytest.raises(InpaintError, match=r"net\.safetensors is missing") as caught:
        verify(card, "onnx")
    assert caught.value.code == "weights_missing"


@pytest.mark.parametrize("needs", ["safetensors", ["onnx", "data"], 3, None])
def test_needs_that_the_card_does_not_name(card_path, needs):
    files = with_need(card_path)
    files["onnx"]["needs"] = needs
    change(card_path, files=files)
    assert code_of(lambda: load_card(card_path)) == "weights_damaged"


@pytest.mark.parametrize(
    "fields",
    [
        {"working_size": "big"},
        {"working_size": 100, "size_multiple": 16},
        {"size_multiple": 0},
        {"input_channels": ["r", "g", "b"]},
        {"files": {"onnx": {"file": "../x.onnx", "sha256": "0", "bytes": 1}}},
        {"files": {"onnx": {"file": "a\\b.onnx", "sha256": "0", "bytes": 1}}},
        {"files": {"onnx": {"file": "", "sha256": "0", "bytes": 1}}},
        {"files": {"onnx": "x"}},
        {"files": 3},
        {"generator": None},
    ],
)
def test_damaged_cards(card_path, fields):
    change(card_path, **fields)
    assert code_of(lambda: load_card(card_path)) == "weights_damaged"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"x"', "\udcff"])
def test_files_that_are_no_cards(tmp_path, text):
    path = tmp_path / "card.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert code_of(lambda: load_card(path)) == "weights_damaged"


def test_no_card(tmp_path):
    assert code_of(lambda: load_card(tmp_path / "none.json")) == "weights_missing"


def test_the_bundled_card_lies_in_the_package():
    path = default_card_path()
    assert path.name == "face_normal_inpaint.json" and path.parent.name == "models"
    assert (path.parent.parent / "core").is_dir()
