"""How much of its starting noise a sample remembers: exact for Gaussian data, read off the plan's coefficients."""

from ...solvers import Plan, response
from ...solvers.checked import checked
from ...solvers.process import as_time
from ...solvers.wanted import NonNegative


@checked
def memory(plan: Plan, variance: NonNegative = 1.0) -> float:
    """|correlation(x_T, x_0)| of the chain on Gaussian data N(0, variance) with the exact network, in [0, 1].

        |c_x| S / sqrt(S (c_x^2 S + sum_j c_j^2)),  S = alpha_T^2 variance + sigma_T^2,

    c_x and c_j the sample's coefficients on x_T and on the noises (`solvers.response`). 0 is memoryless:
    starting noise and sample are independent, the value of x_T is one constant, and the optimum of E[r] -
    beta KL is the chain's own law tilted by exp(r/beta) (Domingo-Enrich et al. 2024, arXiv 2409.08861,
    section 4). An exact reverse SDE with the process's own diffusion gives the forward process's correlation,
    alpha_T sqrt(variance/S), here 0.006 for VP(); an ODE gives 1.

    Cost: one run of the plan over 2 + slots numbers, no network.
    """
    if plan.batch is not None:
        raise ValueError(
            f"memory: got a plan with one grid for each of {plan.batch} samples, expected one grid"
        )
    c = response(plan, 0.0, variance)
    t = as_time(plan.times[0])
    start = float(plan.process.alpha(t)) ** 2 * variance + float(plan.process.sigma(t)) ** 2
    kept, fresh = float(c[1]) ** 2 * start, float(c[2:].square().sum())
    return (kept / (kept + fresh)) ** 0.5 if kept + fresh else 0.0


@checked
def memoryless(plan: Plan, most: NonNegative = 0.1, variance: NonNegative = 1.0) -> bool:
    """Whether `memory(plan, variance)` is at most `most`."""
    return memory(plan, variance) <= most
