"""LocalModel: a latent objective near one point, as far as Gauss-Newton sees it: value, gradient, curvature times v."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...adjoint import CallJVP, Gradient, Linearisation, linearised
from ...adjoint.not_finite import lost, which_samples
from ...solvers import Model, Plan
from ..loss import Loss, check_graph, check_loss
from .least_squares import LeastSquares
from .priors import Priors
from .variables import Variables


@dataclass(frozen=True, eq=False)
class LocalModel:
    """L(sample) + prior at variables (B, d) side by side:

        gradient = J^T dL/dx + prior',   product(v) = J^T H J v + prior'' v

    J the sampler's Jacobian; H the Gauss-Newton matrix of a `LeastSquares` loss, of another its Hessian at the sample.

    Attributes:
        linear: the run.  inputs: what varies.
        sample: a leaf;  loss: (B,) L there, with a graph;  scaled: the residuals there, with a graph.
        prior: (B,), with a graph to `rows`, leaves (B, ...) that stand for the variables.
    """

    linear: Linearisation
    inputs: Variables
    sample: Tensor
    loss: Tensor
    scaled: Tensor | None
    prior: Tensor
    rows: list[Tensor]

    @property
    def value(self) -> Tensor:
        """(B,), without a graph."""
        return (self.loss + self.prior).detach()

    @cached_property
    def gradient(self) -> Tensor:
        """(B, d). Cost: a VJP of the run."""
        return self.inputs.joined(self.linear.vjp(self.slope.detach())) + self._prior_slope.detach()

    def product(self, v: Tensor) -> Tensor:
        """(B, d), for v (B, d). Cost: a JVP and a VJP of the run."""
        return self.inputs.joined(
            self.linear.gauss_newton(self.inputs.parted(v), self._curvature)
        ) + self._prior_curvature(v)

    @cached_property
    def slope(self) -> Tensor:
        """dL/dx at the sample, (B, ...), with a graph. Raises where there is none, or none that is finite."""
        check_graph(self.loss, "the sample", "take lbfgs() and BlackBox(loss, noise)")
        (slope,) = torch.autograd.grad(self.loss.sum(), self.sample, create_graph=True)
        if bool((broken := lost(slope)).any()):
            raise FloatingPointError(
                f"loss: got a gradient that is not finite for {which_samples(broken)}, expected a finite slope where "
                "the loss is finite (sqrt and norm have none at 0); check the loss there, or leave the samples out"
            )
        if self.scaled is None and not slope.requires_grad:
            raise ValueError(
                "levenberg: got a loss whose slope at the sample has no derivative of its own (linear there, or "
                "BlackBox), expected one with a curvature; pass LeastSquares(residuals), or take lbfgs()"
            )
        return slope

    def _curvature(self, u: Tensor) -> Tensor:
        """H u."""
        if self.scaled is None:
            return _pulled([self.slope], [self.sample], [u])[0]
        # J_r u by two backward passes, then J_r^T
        w = torch.zeros_like(self.scaled, requires_grad=True)
        (pulled,) = torch.autograd.grad(self.scaled, self.sample, w, create_graph=True)
        (moved,) = torch.autograd.grad(pulled, w, u)
        return _pulled([self.scaled], [self.sample], [moved])[0]

    @cached_property
    def _prior_slope(self) -> Tensor:
        if not self.prior.requires_grad:
            return torch.cat([torch.zeros_like(row).flatten(1) for row in self.rows], 1)
        slopes = torch.autograd.grad(
            self.prior.sum(), self.rows, create_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([slope.flatten(1) for slope in slopes], 1)

    def _prior_curvature(self, v: Tensor) -> Tensor:
        if not self._prior_slope.requires_grad:
            return torch.zeros_like(v)
        return torch.cat([g.flatten(1) for g in _pulled([self._prior_slope], self.rows, [v])], 1)


def _pulled(outs: list[Tensor], at: list[Tensor], along: list[Tensor]) -> tuple[Tensor, ...]:
    pulled = torch.autograd.grad(
        outs, at, along, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return tuple(each.clone() for each in pulled)  # torch's zeros that are not written out take no sums


def modelled(
    denoiser: Model,
    plan: Plan,
    inputs: Variables,
    loss: Loss,
    priors: Priors,
    gradient: Gradient,
    by: CallJVP,
) -> LocalModel:
    """The objective around where the variables are now. Cost: a run."""
    entering, wrt = inputs.copied()
    linear = linearised(denoiser, plan, wrt=wrt, gradient=gradient, by=by, **entering)
    sample = linear.value.detach().requires_grad_()
    scaled = loss.scaled(sample) if isinstance(loss, LeastSquares) else None
    value = loss(sample) if scaled is None else scaled.flatten(1).square().sum(1) / 2
    check_loss(value, len(sample))
    leaves = [row.detach().clone().requires_grad_() for row in inputs.own]
    standing = {id(row): leaf for row, leaf in zip(inputs.own, leaves, strict=True)}
    rows = {name: standing[id(row)] for name, row in inputs.rows.items()}
    prior = priors(standing.get(id(inputs.x), inputs.x.detach()), rows.get("noise"), rows.get("controls"))
    return LocalModel(linear, inputs, sample, value, scaled, prior, leaves)
