"""What objectives ask of a policy before any work is done, and of the processes' batches."""

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


def reference(policy: Policy, why: str) -> Model:
    """The policy's reference, or ValueError."""
    if policy.reference is None:
        raise ValueError(
            f"policy: got reference=None, expected the frozen base {why}; pass Policy(..., reference=...)"
        )
    return policy.reference


def gaussian(plan: Plan, who: object) -> Transitions:
    """The plan's transitions; ValueError where no step has noise or some step's noise has no density."""
    found = Transitions(plan)
    if not found.stochastic:
        raise ValueError(
            f"{type(who).__name__}: got {plan.name}, none of whose steps draws noise, expected a stochastic "
            "plan with a density; take DDIM(eta=1), DDPM or FlowSDE"
        )
    return found


def penalised(policy: Policy, who: object) -> None:
    """Checks and warnings for a path KL to the reference."""
    reference(policy, "for the KL penalty")
    found = gaussian(policy.plan, who)
    if found.excluded:
        warnings.warn(
            f"{type(who).__name__}: steps {list(found.excluded)} of {policy.plan.name} draw no noise and "
            "have no KL: what training changes there goes unpenalised; end the grid at sigma > 0 to hold "
            "every step",
            stacklevel=3,
        )
    remembers(policy.plan, who)


def remembers(plan: Plan, who: object, most: float = 0.1) -> None:
    """Warn where the plan is not memoryless: the optimum is then not the reference tilted by exp(r/beta)."""
    if plan.batch is None:
        value = memory(plan)
        if value > most:
            warnings.warn(
                f"{type(who).__name__}: samples of {plan.name} remember their starting noise (correlation "
                f"{value:.2f} on unit Gaussian data, expected at most {most}): the KL-regularised optimum is "
                "not the tilted law; take DDIM(eta=1), DDPM or FlowSDE(a=2**0.5) from alpha near 0",
                stacklevel=4,
            )
