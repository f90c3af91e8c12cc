"""Networks, each defined once for the trainer and the worker; PyTorch is imported when one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def build_generator(config: dict[str, Any]) -> nn.Module:
    """Build a generator from its description, as a model card or a training configuration holds it.

    Args:
        config: `kind` and the keyword arguments of that kind's class.

    Returns:
        A module that maps (N, 11, H, W) float32 to (N, 3, H, W) unit vectors.

    Raises:
        ValueError: the kind is not known.
    """
    from . import generator, papers

    arguments = {key: value for key, value in config.items() if key != "kind"}
    kinds: dict[Any, type[nn.Module]] = {
        "face": generator.FaceGenerator,
        "bowtie": papers.BowTie,
        "paper_unet": papers.PaperUNet,
    }
    kind = config.get("kind")
    if kind not in kinds:
        raise ValueError(f"unknown generator kind {kind!r}; known: {', '.join(kinds)}")
    return kinds[kind](**arguments)
