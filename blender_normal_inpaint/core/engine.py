"""What the core asks of a network and of whatever runs it: types only, no network library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .modelcard import ModelCard

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Pixels = NDArray[Any]

#: Called with a fraction in 0..1 and a short text.
Progress = Callable[[float, str], None]

#: Polled often; True stops the job with `Cancelled`.
Cancel = Callable[[], bool]


def no_progress(fraction: float, text: str) -> None:
    """A `Progress` that shows nothing."""


def never_cancel() -> bool:
    """A `Cancel` that never does."""
    return False


@dataclass(frozen=True)
class Wide:
    """A coarser look at a larger part of the map around a crop, for the network's context.

    Each texel stands for `step` x `step` texels of the map. `top` and `left` say where its first texel
    begins, in texels of the crop (so zero or negative where it reaches further out). Arrays as in
    `Crop`, of another size. Its `hole` may hold holes that the crop does not show or will not fill. `seed`
    decides the detail that is seen at this size, for all crops alike. `twin` is as in `Crop`. `head`, where
    given, is one that was fitted to it in camera space, see `morphable.packed`.
    """

    normals: FloatArray
    hole: BoolArray
    valid: BoolArray
    step: int
    top: int
    left: int
    seed: int = 0
    twin: FloatArray | None = None
    head: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Crop:
    """One piece of a map with its hole and the context around it.

    `normals` is float32 (h, w, 3), unit vectors in the internal frame (x right, y up, z out, top row
    first) at known texels and finite anywhere else. `hole` and `valid` are bool (h, w): `hole` is what
    to fill, `valid` is False where there is no surface. Known texels are `valid & ~hole`. `wide`, where
    given, is what the network sees instead of the crop itself, so that a crop of native texels can stay
    small while its context is large. `detail` says whether fine detail is continued into the hole, `symmetry`
    whether the face's other half may tell what lies in it. `twin`, where given, is what that shows of the
    crop, known texels included: float32 (h, w, 3), unit vectors, zero where it shows nothing. Its detail is
    taken over, all of it or, without `pores`, features alone.
    """

    normals: FloatArray
    hole: BoolArray
    valid: BoolArray
    space: str = "tangent"
    seed: int = 0
    detail: bool = True
    symmetry: bool = True
    wide: Wide | None = None
    twin: FloatArray | None = None
    pores: bool = True

    def arrays(self) -> dict[str, Pixels]:
        """Every array by name, for sending the crop elsewhere; `from_parts` is the inverse."""
        parts: dict[str, Pixels] = {"normals": self.normals, "hole": self.hole, "valid": self.valid}
        if self.wide is not None:
            parts["wide_normals"] = self.wide.normals
            parts["wide_hole"] = self.wide.hole
            parts["wide_valid"] = self.wide.valid
            if self.wide.twin is not None:
                parts["wide_twin"] = self.wide.twin
            if self.wide.head is not None:
                parts["wide_head"] = self.wide.head
        if self.twin is not None:
            parts["twin"] = self.twin
        return parts

    def fields(self) -> dict[str, Any]:
        """Everything that is not an array, as values that JSON can carry."""
        wide = None
        if self.wide is not None:
            wide = {key: getattr(self.wide, key) for key in ("step", "top", "left", "seed")}
        chosen = {key: getattr(self, key) for key in ("space", "seed", "detail", "symmetry", "pores")}
        return {**chosen, "wide": wide}

    @staticmethod
    def from_parts(arrays: Mapping[str, Pixels], fields: Mapping[str, Any]) -> Crop:
        """The crop that `arrays` and `fields` describe.

        Raises:
            KeyError: A part is missing.
        """
        wide = None
        if fields.get("wide") is not None:
            place = fields["wide"]
            wide = Wide(
                normals=arrays["wide_normals"],
                hole=arrays["wide_hole"],
                valid=arrays["wide_valid"],
                step=int(place["step"]),
                top=int(place["top"]),
                left=int(place["left"]),
                seed=int(place["seed"]),
                twin=arrays.get("wide_twin"),
                head=arrays.get("wide_head"),
            )
        return Crop(
            normals=arrays["normals"],
            hole=arrays["hole"],
            valid=arrays["valid"],
            space=str(fields["space"]),
            seed=int(fields["seed"]),
            detail=bool(fields["detail"]),
            symmetry=bool(fields["symmetry"]),
            wide=wide,
            twin=arrays.get("twin"),
            pores=bool(fields["pores"]),
        )


class Engine(Protocol):
    """A loaded network, and nothing else."""

    @property
    def name(self) -> str:
        """Which library runs it: "onnx" or "torch"."""

    @property
    def device(self) -> str:
        """Where it runs, for people: "CPU", "CUDA: NVIDIA H100"."""

    @property
    def card(self) -> ModelCard:
        """The card of the loaded weights."""

    def run(self, batch: FloatArray) -> FloatArray:
        """Predict normals: float32 (N, 11, H, W) to float32 (N, 3, H, W), unit along axis 1.

        H and W are multiples of `card.size_multiple`.
        """


class Filler(Protocol):
    """Fills the hole of one crop, in this process or in another."""

    def fill(self, crop: Crop, *, progress: Progress, cancel: Cancel) -> FloatArray:
        """The crop's normals, float32 (h, w, 3), unit; only the texels in the hole matter.

        Raises:
            InpaintError: Whatever went wrong, `Cancelled` among it.
        """
