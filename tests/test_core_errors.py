from __future__ import annotations

import json
import pickle

import pytest

from blender_normal_inpaint.core.errors import CATALOGUE, Cancelled, InpaintError

CODES = """no_mask mask_empty mask_full size_mismatch bad_size not_finite zero_length no_context unreadable
bad_mesh unsupported_format disk_full not_writable no_normal_map srgb no_pixels tiled unsaved worker_start
worker_died worker_timeout worker_protocol bad_result weights_missing weights_damaged engine_unavailable
out_of_memory cancelled busy internal""".split()  # noqa: SIM905 - a list of words


def test_the_catalogue_is_complete():
    assert sorted(CATALOGUE) == sorted(CODES)


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_one_clear_sentence_and_a_hint(code):
    error = InpaintError(code)
    assert error.message[0].isupper() and error.message.endswith(".")
    assert ". " not in error.message and len(error.message) < 120
    assert error.hint[0].isupper() and error.hint.endswith(".") and error.hint != error.message
    assert str(error) == f"{error.message} {error.hint}"


def test_own_words_win_over_the_catalogue():
    error = InpaintError("unreadable", "It is gone.", detail="x.png")
    assert (error.message, error.hint, error.detail) == ("It is gone.", CATALOGUE["unreadable"][1], "x.png")


@pytest.mark.parametrize(
    "error", [InpaintError("tiled", detail="ä"), Cancelled(), InpaintError("busy", "A.", "B.", "C")]
)
def test_errors_survive_json_and_pickle(error):
    for copy in (
        InpaintError.from_dict(json.loads(json.dumps(error.to_dict()))),
        pickle.loads(pickle.dumps(error)),
    ):
        assert type(copy) is type(error)
        assert copy.to_dict() == error.to_dict()


def test_odd_dictionaries_never_raise():
    assert InpaintError.from_dict({}).code == "internal"
    assert InpaintError.from_dict({"code": 3, "message": None, "hint": ["x"]}).message
