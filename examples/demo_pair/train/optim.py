"""Muon for the matrices inside the layers; everything else is left to AdamW."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn


def orthogonalise(x: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix in (N, rows, cols) to about 1 by Newton-Schulz iteration.

    The coefficients are those of the Muon optimizer (K. Jordan and others, 2024): fast, not exact.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x.to(torch.bfloat16)
    flip = x.shape[-2] > x.shape[-1]
    if flip:  # the smaller side first makes the inner products cheap
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if flip else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; matrices of one shape are handled together."""

    def __init__(self, params: list[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """One update."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                by_shape[p.shape].append(p)
            for shape, ps in by_shape.items():
                updates = []
                for p in ps:
                    if p.grad is None:
                        raise RuntimeError("Muon needs the gradient of every matrix")
                    state = self.state[p]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(p)
                    state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(state["momentum"], group["momentum"]))  # Nesterov
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(ps, orthogonalise(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * scale)


class Optimizer:
    """Muon and AdamW behind one face; the learning rates follow one factor."""

    def __init__(self, model: nn.Module, matrix_lr: float, other_lr: float, weight_decay: float) -> None:
        matrices, embedding, scales = [], [], []
        for name, p in model.named_parameters():
            if p.dim() < 2:
                scales.append(p)
            elif "embed" in name:
                embedding.append(p)
            else:
                matrices.append(p)
        self.parts: list[torch.optim.Optimizer] = [
            Muon(matrices, matrix_lr, weight_decay=weight_decay),
            torch.optim.AdamW(
                [{"params": embedding, "weight_decay": weight_decay}, {"params": scales, "weight_decay": 0.0}],
                lr=other_lr,
                betas=(0.9, 0.95),
                fused=True,
            ),
        ]
        self.base = [[g["lr"] for g in part.param_groups] for part in self.parts]

    def step(self, factor: float) -> None:
        """Update with all learning rates times ``factor``, then forget the gradients."""
        for part, rates in zip(self.parts, self.base, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, object]]:
        """The state of both."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, object]]) -> None:
        """Restore what ``state_dict`` gave."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
