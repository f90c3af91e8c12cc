"""The one exception type that every part of the project raises for a foreseen failure."""

from __future__ import annotations

from collections.abc import Mapping

#: code -> (one clear sentence, what to do). A raiser may replace either with one that knows more.
CATALOGUE: dict[str, tuple[str, str]] = {
    "no_mask": (
        "There is no mask to say which texels to repair.",
        "Choose a mask image, or make one with New Mask and paint the damage white.",
    ),
    "mask_empty": (
        "The mask is empty, so there is nothing to repair.",
        "Paint the damaged texels white in the mask (brighter than mid grey).",
    ),
    "mask_full": (
        "The mask covers the whole map, so nothing is left to continue from.",
        "Leave some undamaged texels black in the mask; if it looks right, it may be inverted.",
    ),
    "size_mismatch": (
        "The mask has other proportions than the normal map.",
        "Use a mask with the same width-to-height ratio as the map; its size may differ.",
    ),
    "bad_size": (
        "The normal map is too small or too large to repair.",
        "Use a map of at least 16 and at most 16384 texels a side.",
    ),
    "not_finite": (
        "The normal map holds texels that are not finite numbers (NaN or infinity).",
        "Include those texels in the mask, or clean the map and try again.",
    ),
    "zero_length": (
        "The normal map holds vectors of length zero inside the valid area.",
        "Include those texels in the mask, or leave them out of the valid mask.",
    ),
    "no_context": (
        "No undamaged texel lies around the masked area, so there is nothing to continue from.",
        "Make the mask smaller or the valid mask larger, so that known texels surround the damage.",
    ),
    "unreadable": (
        "The image file could not be read.",
        "Check that the file exists, is complete and is an image.",
    ),
    "bad_mesh": (
        "The mesh could not be used.",
        "Use an OBJ, PLY or GLB file of the mesh that the map was made for, with its texture coordinates.",
    ),
    "unsupported_format": (
        "This kind of image cannot hold a normal map.",
        "Use PNG, TIFF, OpenEXR, TGA, BMP or JPEG with RGB or RGBA channels.",
    ),
    "disk_full": (
        "The disk is full, so the result could not be written.",
        "Free some space or choose another place for the result; nothing was overwritten.",
    ),
    "not_writable": (
        "The result could not be written there.",
        "Check that the folder exists and that you may write in it, or choose another place.",
    ),
    "no_normal_map": (
        "No normal map was found in the active material.",
        "Connect an Image Texture to a Normal Map node, or choose the image by hand.",
    ),
    "srgb": (
        "The normal map is tagged as sRGB colour, which would bend its vectors.",
        "Set the image's Color Space to Non-Color and try again.",
    ),
    "no_pixels": (
        "The image has no pixels: it is empty or its file is missing.",
        "Reload the image, find its missing file, or choose another image.",
    ),
    "tiled": (
        "A tiled (UDIM) map needs tiled masks, and one that is not tiled needs others.",
        "Choose a mask and a valid area like the map, or make a mask with New Mask.",
    ),
    "unsaved": (
        "The tiled image has changes that are not saved.",
        "Save it (Image > Save), or pack it (Image > Pack), and try again.",
    ),
    "worker_start": (
        "The background process that computes the repair could not start.",
        "See the log named in the details, and check the Python chosen in the preferences.",
    ),
    "worker_died": (
        "The background process ended before the repair was done.",
        "Try again: a fresh process starts by itself. The log says more.",
    ),
    "worker_timeout": (
        "The background process did not answer in time and was stopped.",
        "Try again, or raise the deadline in the preferences.",
    ),
    "worker_protocol": (
        "The background process sent an answer that was not understood.",
        "Restart Blender after updating the extension; both sides must be of the same version.",
    ),
    "bad_result": (
        "The network returned a result that is not a field of unit normals.",
        "Nothing was changed. Try the other engine in the preferences, and report the log.",
    ),
    "weights_missing": (
        "The network's weights file is missing.",
        "Reinstall the extension, or choose a model card whose weights lie beside it.",
    ),
    "weights_damaged": (
        "The network's weights file does not match its card.",
        "Reinstall the extension, or copy the weights and their card again.",
    ),
    "engine_unavailable": (
        "The chosen engine is not available here.",
        "Choose the automatic engine, or install onnxruntime or PyTorch for this Python.",
    ),
    "out_of_memory": (
        "There was not enough memory for the repair.",
        "Close other programs, choose the CPU as device, or repair one hole at a time.",
    ),
    "cancelled": (
        "The repair was cancelled.",
        "Nothing was changed.",
    ),
    "busy": (
        "A repair is already running.",
        "Wait until it is done, or cancel it with Esc.",
    ),
    "internal": (
        "Something unexpected went wrong.",
        "Nothing was changed. Please report the details below.",
    ),
}


class InpaintError(Exception):
    """A foreseen failure: what happened, and what to do about it.

    Args:
        code: A stable identifier, one of `CATALOGUE`.
        message: One clear sentence; the catalogue's where empty.
        hint: What to do; the catalogue's where empty.
        detail: Anything longer, such as a remote traceback or a log's path.
    """

    def __init__(self, code: str, message: str = "", hint: str = "", detail: str = "") -> None:
        default_message, default_hint = CATALOGUE.get(code, CATALOGUE["internal"])
        self.code = code
        self.message = message or default_message
        self.hint = hint or default_hint
        self.detail = detail
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[type[InpaintError], tuple[str, str, str, str]]:
        # Exception's own would pass the message as the code.
        return type(self), (self.code, self.message, self.hint, self.detail)

    def to_dict(self) -> dict[str, str]:
        """All four fields as plain text, ready for JSON."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "detail": self.detail}

    @staticmethod
    def from_dict(fields: Mapping[str, object]) -> InpaintError:
        """The error that `to_dict` described; missing or odd fields never raise."""
        code = str(fields.get("code") or "internal")
        message = str(fields.get("message") or "")
        hint = str(fields.get("hint") or "")
        detail = str(fields.get("detail") or "")
        if code == "cancelled":
            return Cancelled(code, message, hint, detail)
        return InpaintError(code, message, hint, detail)


class Cancelled(InpaintError):  # noqa: N818 - it is a request, not an error
    """The user stopped the job; raised wherever a job polls its cancel flag."""

    def __init__(self, code: str = "cancelled", message: str = "", hint: str = "", detail: str = "") -> None:
        super().__init__(code, message, hint, detail)
