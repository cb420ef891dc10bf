"""What objectives require of a policy, checked before any work is done."""

import warnings

from ...solvers import Model, Plan, Transitions
from .noise_memory import memory
from .objective import Policy


def require_trainable(policy: Policy) -> None:
    """Raise ValueError where no parameter of the denoiser requires grad."""
    if not any(value.requires_grad for value in policy.denoiser.parameters()):
        raise ValueError(
            "policy: got a denoiser none of whose parameters requires grad, expected at least one to train; "
            "give the network as an nn.Module, call requires_grad_() or add an adapter"
        )


def require_reference(policy: Policy, why: str) -> Model:
    """The policy's reference, or ValueError."""
    if policy.reference is None:
        raise ValueError(
            f"policy: got reference=None, expected the frozen base {why}; pass Policy(..., reference=...)"
        )
    return policy.reference


def require_gaussian_steps(plan: Plan, who: object) -> Transitions:
    """The plan's transitions; ValueError where no step has noise or some step's noise has no density."""
    found = Transitions(plan)
    if not found.stochastic:
        raise ValueError(
            f"{type(who).__name__}: got {plan.name}, none of whose steps draws noise, expected a stochastic "
            "plan with a density; take DDIM(eta=1), DDPM or FlowSDE"
        )
    return found


def check_path_kl(policy: Policy, who: object) -> None:
    """Raise ValueError where the path KL to the reference is not defined, warn where it does not hold every
    step or where its optimum is not the reference tilted by exp(r/beta).
    """
    require_reference(policy, "for the KL penalty")
    found = require_gaussian_steps(policy.plan, who)
    if found.excluded:
        warnings.warn(
            f"{type(who).__name__}: steps {list(found.excluded)} of {policy.plan.name} draw no noise and "
            "have no KL: what training changes there goes unpenalised; end the grid at sigma > 0 to hold "
            "every step",
            stacklevel=3,
        )
    _warn_of_memory(policy.plan, who)


def _warn_of_memory(plan: Plan, who: object, most: float = 0.1) -> None:
    if plan.batch is None and (value := memory(plan)) > most:
        warnings.warn(
            f"{type(who).__name__}: samples of {plan.name} remember their starting noise (correlation "
            f"{value:.2f} on unit Gaussian data, expected at most {most}): the KL-regularised optimum is "
            "not the tilted law; take DDIM(eta=1), DDPM or FlowSDE(a=2**0.5) from alpha near 0",
            stacklevel=4,
        )
