"""What a run is given, by kind: said before any of it is used."""

import warnings
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves

from ..solvers import GivenNoise, Model, Noise, Plan
from ..solvers.kinds import check_kind, described
from ..solvers.opening import check_state
from ..solvers.per_step import PerStep
from .choosing.auto import Auto
from .strategies.gradient import Gradient
from .strategies.input import Input
from .transforms import transform


def check_arguments(
    denoiser: object,
    plan: object,
    x: Any,
    *,
    cond: Any = None,
    noise: Any = None,
    controls: Any = None,
    coefficients: Any = None,
    gradient: object = None,
    callback: object = None,
) -> None:
    """Raise TypeError where an argument of `sample` is of another kind, ValueError where a gradient is asked for under
    no_grad. About 20 us a run.
    """
    check_model_and_plan(denoiser, plan)
    _check_tensors("x", x, "a tensor (B, ...)")
    if isinstance(x, Tensor):
        check_state(x)
    check_noise(noise)
    assert isinstance(plan, Plan)
    if noise is not None and not (plan.slots or plan.stochastic):
        warnings.warn(
            f"noise: got {described(noise)} for {plan.name}, which draws none, expected noise=None; leave it out, or "
            "take a stochastic method such as DDPM()",
            UserWarning,
            stacklevel=3,
        )
    if not isinstance(gradient, Gradient) or gradient.follows_plan:
        _check_draws(plan, noise)
    for name, value in (("controls", controls), ("coefficients", coefficients)):
        if value is not None:
            _check_tensors(name, value, "a tensor")
    for leaf in tree_leaves(cond):
        if isinstance(leaf, PerStep):
            check_kind(
                "PerStep", leaf.values, Tensor, "a tensor (N, ...); torch.stack(values) makes one of a list"
            )
    check_gradient(gradient)
    if callback is not None and not callable(callback):
        raise TypeError(
            f"callback: got {described(callback)}, expected a function of (step, time, state); pass a callable or None"
        )


def check_model_and_plan(denoiser: object, plan: object) -> None:
    """Raise TypeError unless `denoiser` is a model and `plan` a plan."""
    check_kind(
        "denoiser", denoiser, Model, "a Denoiser; wrap the network: Denoiser(network, process, prediction)"
    )
    check_plan(plan)


def check_plan(plan: object) -> None:
    """Raise TypeError unless `plan` is a plan."""
    check_kind("plan", plan, Plan, "a Plan; compile one: DPMSolverPP(2).plan(denoiser.process, grid)")


def noise_for(plan: Plan, noise: Any) -> Any:
    """`noise` where `plan` may draw, else None: for a caller that has other uses for its source."""
    return noise if plan.slots or plan.stochastic else None


def check_noise(noise: Any) -> None:
    """Raise TypeError unless `noise` is a source, tensors, or None."""
    if isinstance(noise, type) and issubclass(noise, Noise):
        check_kind("noise", noise, Noise, "")
    for leaf in tree_leaves(noise):
        if leaf is not None and not isinstance(leaf, Noise | Tensor):
            seed = (
                leaf if isinstance(leaf, int) else leaf.initial_seed() if isinstance(leaf, Generator) else 0
            )
            raise TypeError(
                f"noise: got {described(leaf)}, expected a source of noise or a tensor (slots, B, ...); pass "
                f"noise=Addressed({seed})"
            )


def _check_draws(plan: Plan, noise: Any) -> None:
    """Raise ValueError where draws were made for another plan: those too many would be left out without a word. Parts
    of a split plan take the whole run's. Too few are the source's to refuse.
    """
    slots = plan.slots if plan.run_slots is None else plan.run_slots
    for leaf in tree_leaves(noise.values if isinstance(noise, GivenNoise) else noise):
        if isinstance(leaf, Tensor) and slots and plan.slots <= len(leaf) != slots:
            raise ValueError(
                f"noise: got {len(leaf)} draws, expected {slots}, one for each slot of {plan.name}; draw "
                "(slots, *x.shape)"
            )


def check_gradient(gradient: object) -> None:
    """Raise TypeError unless `gradient` is a strategy or None, ValueError where one is asked for under no_grad."""
    if gradient is None:
        return
    check_kind("gradient", gradient, Gradient, "a strategy such as Checkpoint() or Direct(), or None to sample only; "
               "pass the object, not its name")  # fmt: skip
    assert isinstance(gradient, Gradient)
    chosen = not isinstance(gradient, Auto) and not gradient.samples
    if chosen and not torch.is_grad_enabled() and not transform():
        raise ValueError(
            f"gradient={gradient}: got a call under torch.no_grad() or inference_mode(), expected grad mode on; call "
            "outside of it, or pass gradient=None to sample only"
        )


def check_serves(gradient: Gradient | None, *plans: Plan, wanted: Collection[Input] = ()) -> None:
    """Raise ValueError where `gradient` cannot carry out one of `plans`, before the first of them is run, or leaves out
    what is `wanted`.
    """
    check_gradient(gradient)
    if gradient is not None:
        for plan in plans:
            gradient.check(plan, wanted)


def check_nodes(plan: object, at: Any) -> None:
    """Raise TypeError unless `plan` is one and `at` a sequence of whole numbers, ValueError where it lacks a node."""
    check_plan(plan)
    if not isinstance(at, Sequence) or not all(isinstance(k, int) for k in at):
        raise TypeError(f"at: got {described(at)}, expected a list of nodes; pass at=[0, 5]")
    assert isinstance(plan, Plan)
    if not at or not all(0 <= k <= plan.steps for k in at):
        raise ValueError(
            f"at: got {list(at)}, expected nodes between 0 and {plan.steps}; 0 is x itself, {plan.steps} the sample"
        )


def _check_tensors(name: str, value: Any, wanted: str) -> None:
    found = tree_leaves(value)
    if not found or not all(isinstance(leaf, Tensor) for leaf in found):
        how = "torch.as_tensor(...) makes one of an array or a list of numbers"
        raise TypeError(f"{name}: got {described(value)}, expected {wanted}; {how}")
