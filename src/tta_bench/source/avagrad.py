"""AvaGrad (Savarese et al., CVPR 2021): adaptive rates that know nothing of the gradient they multiply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class AvaGrad(torch.optim.Optimizer):
    """``w <- w - lr * eta / ||eta / sqrt(d)|| * m``, ``eta = 1 / (sqrt(v) + eps)``, ``v`` of the gradients before.

    The root mean square of the rates, over the ``d`` scalars that have a gradient, is 1: ``lr`` is the step per unit of
    ``m``, and for a large ``eps`` it is that of stochastic gradient descent with an averaged gradient. Only the ratios
    of the rates depend on ``eps``, so that both can be chosen one after the other.

    Args:
        params: parameters.
        lr: above 0.
        betas: of the averages of the gradient and of its square.
        eps: above 0.
        weight_decay: times the parameter, added to the gradient.
        bias_correction: divide the averages by their total weight, as the authors' code does. A parameter does not move
            at its first gradient then, because there are no rates yet. Without, as printed, averages begin at 0.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 0.1,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "bias_correction": bias_correction})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._move([parameter for parameter in group["params"] if parameter.grad is not None], group)
        return loss

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        moves: list[tuple[Tensor, Tensor, Tensor]] = []  # parameter, its rates and its averaged gradient
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            if group["weight_decay"]:
                gradient = gradient.add(parameter, alpha=group["weight_decay"])
            state = self.state[parameter]
            if not state:
                state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
            mean, square = state["mean"], state["square"]
            mean.lerp_(gradient, 1 - first)
            steps, corrected = state["step"], group["bias_correction"]
            if steps or not corrected:
                root = (square / (1 - second**steps) if corrected else square).sqrt()
                averaged = mean / (1 - first ** (steps + 1)) if corrected else mean
                moves.append((parameter, (root + group["eps"]).reciprocal(), averaged))
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            state["step"] += 1
        if moves:
            total = torch.stack([rates.square().sum() for _, rates, _ in moves]).sum()
            factor = group["lr"] / (total / sum(rates.numel() for _, rates, _ in moves)).sqrt()
            for parameter, rates, averaged in moves:
                parameter.sub_(factor * rates * averaged)
