"""How a network's weights move: AdamW, or Muon for the convolutions in its middle."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("adamw", "muon")


def learning_rate(first: float, last: float, step: int, progress: float, warm_up: int) -> float:
    """A warm-up over a run's first steps, and a cosine from a first rate to a last as progress goes to 1."""
    rate = last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return rate * min(1.0, (step + 1) / max(warm_up, 1))


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, step: int, ema: float) -> None:
    """Move the average of a network's weights towards them, after a step.

    Args:
        average: a network of the same kind.
        network: the one that learns.
        step: how many steps there were before; a young run's average would hold on to its random start.
        ema: share of itself that the average keeps in the long run.
    """
    decay = min(ema, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for kept, new in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(new)  # statistics of batch normalisation are averages already


class _Muon:
    """Muon for the weights of convolutions, all matrices of a shape in one product.

    Muon (K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024) makes each step
    of a matrix nearly orthogonal, so that no direction in a layer is left behind: five steps of a quintic
    Newton-Schulz iteration. Steps are scaled to the size of AdamW's (J. Liu et al., arXiv 2502.16982), so
    that both take the same learning rates. It is `torch.optim.Muon` with `match_rms_adamw`, which goes
    through the matrices one by one: for the seventy of our network that takes a GPU longer to be told than to
    do.

    Args:
        weights: (o, i, h, w) each, in their final place and memory format.
        weight_decay: decoupled from the gradient, times the learning rate.
    """

    MOMENTUM = 0.95
    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    STEPS = 5

    def __init__(self, weights: list[nn.Parameter], weight_decay: float):
        self._decay = weight_decay
        self._weights = weights
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, weight in enumerate(weights):
            groups.setdefault(tuple(_matrix(weight.data, weight).shape), []).append(number)
        self._groups = list(groups.values())
        self._momentum = [torch.zeros_like(_matrix(weight.data, weight)) for weight in weights]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the weights that have a gradient."""
        for group in self._groups:
            there = [i for i in group if self._weights[i].grad is not None]
            if not there:
                continue
            weights = [self._weights[i] for i in there]
            gradients = [_matrix(w.grad, w) for w in weights if w.grad is not None]
            momenta = [self._momentum[i] for i in there]
            torch._foreach_lerp_(momenta, gradients, 1 - self.MOMENTUM)
            ahead = torch.stack(gradients).lerp(torch.stack(momenta), self.MOMENTUM)
            step = self._orthogonal(ahead)
            matrices = [_matrix(w.data, w) for w in weights]
            torch._foreach_mul_(matrices, 1 - rate * self._decay)
            pace = -rate * 0.2 * math.sqrt(max(step.shape[1:]))
            torch._foreach_add_(matrices, list(step.float().unbind()), alpha=pace)

    @classmethod
    def _orthogonal(cls, matrices: Tensor) -> Tensor:
        """Matrices (k, m, n) with all their singular values near one."""
        x = matrices.bfloat16()
        tall = x.shape[1] > x.shape[2]
        if tall:
            x = x.mT
        x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
        a, b, c = cls.COEFFICIENTS
        for _ in range(cls.STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.mT if tall else x

    def state_dict(self) -> dict[str, Any]:
        return {"momentum": self._momentum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # A run that was begun with PyTorch's own numbers its buffers alike.
        kept = state.get("momentum") or [
            state["state"].get(i, {}).get("momentum_buffer") for i in range(len(self._weights))
        ]
        for mine, given in zip(self._momentum, kept, strict=True):
            if given is not None:  # None: it never had a gradient.
                mine.copy_(given)


class Optimizer:
    """AdamW for all weights, or Muon for those of inner convolutions and AdamW for the rest.

    See `_Muon`; the matrix of a convolution leads from a patch to its output channels.

    Args:
        network: whose weights to move, in their final place and memory format. Its `outer_layers` names the
            layers that read the input or write the answer, which Muon is not made for.
        kind: "adamw" or "muon".
        weight_decay: decoupled from the gradient, times the learning rate.
    """

    def __init__(self, network: nn.Module, kind: str, weight_decay: float):
        outer: tuple[str, ...] = getattr(network, "outer_layers", ())
        inner: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            hidden = parameter.ndim == 4 and not name.startswith(tuple(f"{layer}." for layer in outer))
            (inner if kind == "muon" and hidden else rest).append(parameter)
        self._adamw = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.99), weight_decay=weight_decay)
        self._muon = _Muon(inner, weight_decay) if inner else None

    def step(self, rate: float) -> None:
        """Move all weights along their gradients at a learning rate."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        if self._muon is not None:
            self._muon.step(rate)

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        state = self._adamw.state_dict()
        return state if self._muon is None else {**state, "muon": self._muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        state = dict(state)
        if self._muon is not None:
            self._muon.load_state_dict(state.pop("muon"))
        self._adamw.load_state_dict(state)


def _matrix(values: Tensor, weight: Tensor) -> Tensor:
    """A convolution's weight or its gradient (o, i, h, w) as (o, n), columns as they lie in the weight."""
    if weight.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.reshape(len(values), -1)
