"""The card beside each weight file: what the network expects, where it comes from, and its hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import InpaintError

#: The one channel layout that `core.fill.prepare_batch` produces.
INPUT_CHANNELS = (
    *("nx", "ny", "nz", "hole", "valid", "is_tangent", "is_object", "is_camera"),
    *("guess_x", "guess_y", "guess_z"),
)

#: The first channel of the guess.
GUESS = INPUT_CHANNELS.index("guess_x")

#: The spaces in the order of their one-hot input channels.
SPACES = ("tangent", "object", "camera")

_KINDS = ("onnx", "safetensors")


@dataclass(frozen=True)
class WeightFile:
    """One weight file beside its card.

    `needs` names the kinds of the card's other files without which this one cannot be used: an ONNX file may
    hold the graph alone and refer to the safetensors file for its weights.
    """

    file: str
    sha256: str
    bytes: int
    needs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The file as a card's JSON describes it, `needs` only where there are any."""
        needs = {"needs": list(self.needs)} if self.needs else {}
        return {"file": self.file, "sha256": self.sha256, "bytes": self.bytes, **needs}


@dataclass(frozen=True)
class ModelCard:
    """Everything about one network but its weights.

    `working_size` is the side, in texels, at which the network sees a crop; both sides of its input
    are multiples of `size_multiple`. `generator` holds the arguments of `nets.build_generator`.
    """

    name: str
    version: str
    created: str
    spaces: tuple[str, ...]
    input_channels: tuple[str, ...]
    working_size: int
    size_multiple: int
    generator: Mapping[str, Any]
    files: Mapping[str, WeightFile]
    training_data: tuple[Mapping[str, Any], ...] = ()
    licence: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    path: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """The card as the JSON object that `load_card` reads (without its path)."""
        return {
            "name": self.name,
            "version": self.version,
            "created": self.created,
            "spaces": list(self.spaces),
            "input_channels": list(self.input_channels),
            "working_size": self.working_size,
            "size_multiple": self.size_multiple,
            "generator": dict(self.generator),
            "files": {kind: entry.to_dict() for kind, entry in self.files.items()},
            "training_data": [dict(entry) for entry in self.training_data],
            "licence": self.licence,
            "figures": dict(self.figures),
            "recipe": self.recipe,
        }


def default_card_path() -> Path:
    """The card of the network bundled with the package."""
    return Path(__file__).resolve().parent.parent / "models" / "face_normal_inpaint.json"


def _damaged(path: Path, why: str) -> InpaintError:
    return InpaintError(
        "weights_damaged", f"The model card {path.name} cannot be used: {why}.", detail=str(path)
    )


def load_card(path: Path) -> ModelCard:
    """Read and check a model card.

    Raises:
        InpaintError: `weights_missing` if there is no such card, `weights_damaged` if it cannot be
            understood or describes a network that this version cannot feed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InpaintError(
            "weights_missing", f"The model card {path.name} is missing.", detail=str(path)
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, "it is not a readable text file") from error
    try:
        data = json.loads(text)
    except ValueError as error:
        raise _damaged(path, "it is not valid JSON") from error
    if not isinstance(data, dict):
        raise _damaged(path, "it is not a JSON object")
    try:
        files = {
            str(kind): WeightFile(
                file=str(entry["file"]),
                sha256=str(entry["sha256"]).lower(),
                bytes=int(entry["bytes"]),
                needs=tuple(str(needed) for needed in entry.get("needs", ())),
            )
            for kind, entry in data["files"].items()
        }
        card = ModelCard(
            name=str(data["name"]),
            version=str(data["version"]),
            created=str(data.get("created", "")),
            spaces=tuple(str(space) for space in data["spaces"]),
            input_channels=tuple(str(channel) for channel in data["input_channels"]),
            working_size=int(data["working_size"]),
            size_multiple=int(data["size_multiple"]),
            generator=dict(data["generator"]),
            files=files,
            training_data=tuple(dict(entry) for entry in data.get("training_data", [])),
            licence=str(data.get("licence", "")),
            figures=dict(data.get("figures", {})),
            recipe=str(data.get("recipe", "")),
            path=path,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"a field is missing or of the wrong kind ({error})") from error
    if card.input_channels != INPUT_CHANNELS:
        raise _damaged(path, "its network expects other input channels than this version prepares")
    if not 1 <= card.size_multiple <= card.working_size or card.working_size % card.size_multiple:
        raise _damaged(path, "its working size is not a multiple of its size multiple")
    for entry in files.values():
        # The card must not be able to point outside its own folder.
        if entry.file in ("", ".", "..") or Path(entry.file).name != entry.file or "\\" in entry.file:
            raise _damaged(path, f"the file name {entry.file!r} is not a plain name")
        if not files.keys() >= set(entry.needs):
            raise _damaged(path, f"{entry.file} needs a file that the card does not name")
    return card


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(card: ModelCard, which: str) -> Path:
    """The path of a card's weight file, once its size and hash and those of the files it needs are checked.

    Args:
        card: A card from `load_card`.
        which: "onnx" or "safetensors".

    Returns:
        The path of that file; what it needs lies beside it.

    Raises:
        InpaintError: `weights_missing` if the card names no such file or one of these is not there,
            `weights_damaged` if a size or hash differs from the card's.
        ValueError: There is no such kind.
    """
    if which not in _KINDS:
        raise ValueError(f"unknown kind of weights: {which!r}")
    path = _checked(card, which)
    for needed in card.files[which].needs:
        _checked(card, needed)
    return path


def _checked(card: ModelCard, which: str) -> Path:
    """The path of one of a card's files, once its size and hash have been checked."""
    entry = card.files.get(which)
    if entry is None or card.path is None:
        raise InpaintError(
            "weights_missing", f"The model {card.name} has no {which} weights.", detail=str(card.path)
        )
    path = card.path.parent / entry.file
    try:
        size = path.stat().st_size
        digest = sha256_of(path) if size == entry.bytes else ""
    except FileNotFoundError as error:
        raise InpaintError(
            "weights_missing", f"The weights file {entry.file} is missing.", detail=str(path)
        ) from error
    except OSError as error:
        raise InpaintError(
            "weights_damaged", f"The weights file {entry.file} cannot be read.", detail=f"{path}: {error}"
        ) from error
    if digest != entry.sha256:
        raise InpaintError(
            "weights_damaged",
            f"The weights file {entry.file} does not match its card.",
            detail=f"{path}: {size} bytes, sha256 {digest or 'not computed'}; the card says "
            f"{entry.bytes} bytes, sha256 {entry.sha256}",
        )
    return path
