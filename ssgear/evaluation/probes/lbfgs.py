"""L-BFGS on tensors of any device, with a preconditioner (Nocedal & Wright 2006, algorithm 7.4).

The objective is convex and smooth, so that a step that decreases it enough (Armijo) always has a
positive curvature; no second condition is tested. The state is float64; values and gradients may
be computed in float32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HISTORY = 20
"""Steps that the estimate of the Hessian is made from."""
ARMIJO = 1e-4
"""Share of the decrease along the gradient that a step must bring."""
NOISE = 1e-9
"""Relative rounding error of a value; a smaller increase is not one."""
MOST_HALVINGS = 12

Objective = Callable[[Tensor], tuple[float, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Minimum:
    """Where the minimizer ended."""

    point: Tensor
    """float64, of the shape of the start."""
    value: float
    """The objective there."""
    evaluations: int
    """Calls of the objective."""
    converged: bool
    """Whether the largest entry of the gradient met the tolerance."""


GAP = 1e-7
"""Share of the value by which a minimum may be missed."""
NEAR = 10.0
"""Times the tolerance that the gradient may be where rounding hides all further decrease."""


def minimize(
    objective: Objective,
    start: Tensor,
    *,
    precondition: Callable[[Tensor], Tensor],
    tolerance: float,
    iterations: int,
    convexity: float | None = None,
) -> Minimum:
    """Minimize a smooth convex function.

    Args:
        objective: Returns value and gradient (float64, of the point's shape) at a point.
        start: Where to start, float64.
        precondition: Applies an estimate of the inverse Hessian to a gradient; its scale does not
            matter after the first step.
        tolerance: Largest entry of the gradient at which to stop.
        convexity: Least curvature c of the objective. Where given, the end is where the value is
            within `GAP` of the minimum, which lies at most |gradient|^2 / (2 c) below.
        iterations: Most steps.
    """

    def is_near(value: float, gradient: Tensor, slack: float = 1.0) -> bool:
        if float(gradient.abs().max()) > slack * tolerance:
            return False
        gap = 0.0 if convexity is None else float(gradient.square().sum()) / (2 * convexity)
        return gap <= slack**2 * GAP * abs(value)

    slack = 1.0
    point = start.double()
    value, gradient = objective(point)
    evaluations = 1
    history: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=HISTORY)
    for _ in range(iterations):
        if is_near(value, gradient):
            break
        direction = -_inverse_hessian(gradient, history, precondition)
        slope = float((direction * gradient).sum())
        step = 1.0
        for _ in range(MOST_HALVINGS):
            candidate = point + step * direction
            new_value, new_gradient = objective(candidate)
            evaluations += 1
            if new_value <= value + ARMIJO * step * slope + NOISE * abs(value):
                break
            # the minimum of the parabola through both values and the slope, not too far off
            curvature = 2 * (new_value - value - step * slope)
            step = min(0.5 * step, max(0.1 * step, -slope * step * step / curvature))
        else:  # rounding hides what decrease is left
            slack = NEAR
            break
        change, bend = candidate - point, new_gradient - gradient
        product = (change * bend).sum()
        if float(product) > 0:
            history.append((change, bend, product))
        point, value, gradient = candidate, new_value, new_gradient
    converged = is_near(value, gradient, slack)
    return Minimum(point=point, value=value, evaluations=evaluations, converged=converged)


def _inverse_hessian(
    gradient: Tensor,
    history: deque[tuple[Tensor, Tensor, Tensor]],
    precondition: Callable[[Tensor], Tensor],
) -> Tensor:
    """Apply the estimate of the inverse Hessian by the two-loop recursion."""
    remainder = gradient.clone()
    shares: list[Tensor] = []
    for change, bend, product in reversed(history):
        share = (change * remainder).sum() / product
        remainder -= share * bend
        shares.append(share)
    result = precondition(remainder)
    if history:
        change, bend, product = history[-1]
        result = result * (product / (bend * precondition(bend)).sum())
    for (change, bend, product), share in zip(history, reversed(shares), strict=True):
        result = result + change * (share - (bend * result).sum() / product)
    return result


def cholesky_preconditioner(
    features_nF: Tensor,
) -> Callable[[float, float], Callable[[Tensor], Tensor]]:
    """Return a factory of preconditioners for a softmax layer [F + 1, C] on centered features.

    The Hessian of one class is about `spread` x covariance + l2, with `spread` the mean of
    p (1 - p); that of the bias, the last row, is `spread`. With fewer rows than features, the
    inverse is applied through the products of rows (Woodbury).
    """
    count, width = features_nF.shape
    is_wide = width > count
    rows = features_nF.double() if is_wide else None
    products = features_nF @ features_nF.T if is_wide else features_nF.T @ features_nF
    products = products.double() / count

    def of(spread: float, l2: float) -> Callable[[Tensor], Tensor]:
        ridge = l2 + 1e-9
        hessian = spread * products
        hessian.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        while int(failed):  # products of float32 that are not quite positive; any ridge will do
            hessian.diagonal().add_(9 * ridge)
            ridge *= 10
            factor, failed = torch.linalg.cholesky_ex(hessian)

        def solve(gradient: Tensor) -> Tensor:
            if rows is None:
                return torch.cholesky_solve(gradient, factor)
            inner = torch.cholesky_solve(rows @ gradient, factor)
            return (gradient - spread / count * (rows.T @ inner)) / ridge

        return lambda gradient: torch.cat([solve(gradient[:-1]), gradient[-1:] / spread])

    return of
