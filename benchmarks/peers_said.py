"""For each fault of peers_faults.py: what the numbers are, what the library's own pages say, and where it is right."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

Pair = tuple[Any, Any]  # theirs, ours
FAULTS: dict[str, tuple[str, Callable[[], Pair]]] = {}


def peer(module: str) -> Any:
    """The module, whose types are its own affair."""
    return import_module(module)


def of(library: str, needs: str = "") -> Callable[[Callable[[], Pair]], Callable[[], Pair]]:
    """Enrols a fault of `library`, which can be imported as `needs`."""

    def enrol(fault: Callable[[], Pair]) -> Callable[[], Pair]:
        FAULTS[fault.__name__] = (f"{library}:{needs or library}", fault)
        return fault

    return enrol


class Said(NamedTuple):
    """`shown` is a format for the two numbers."""

    what: str
    shown: str
    promise: str
    right: str


GRADIENTS = "relative error of the gradient"

SAID = {
    "captured_by_the_field": Said(
        f"`odeint_adjoint`, a tensor that the field holds and that is no parameter: {GRADIENTS} there",
        "{:.2g}",
        'README: `func` must be an `nn.Module`: "This is used to collect parameters"',
        "so it is said; but None comes back where one forgot, and no word. `adjoint_params=` helps, "
        "`odeint` is right",
    ),
    "gradient_penalty": Said(
        f"`odeint_adjoint`, loss + square of its own gradient: {GRADIENTS}",
        "{:.2g}",
        'README: "gradients implemented for all main arguments"',
        "`odeint` differentiates twice, exactly; the adjoint's backward pass has no graph",
    ),
    "autocast_in_the_backward_pass": Said(
        "`odeint_adjoint` under `torch.autocast`: share of the backward pass's calls that run under it",
        "{:.0%}",
        "nothing",
        "in float32 the backward pass is the more precise; it is another network than the one that ran",
    ),
    "misspelt_option": Said(
        '`options={"stepsize": 0.05}`, a letter short of `step_size`: steps taken of 20',
        "{}",
        'a warning, "Unexpected arguments"',
        "it does warn; and takes the whole interval in one step",
    ),
    "backsolve_on_a_diffusion": Said(
        f"`odeint_adjoint`, a diffusion's flow in 20 Euler steps without states between: "
        f"{GRADIENTS} from that of the steps",
        "{:.2g}",
        'README: "we encourage the use of the adjoint method", for its O(1) memory',
        "it solves the flow's own adjoint, and dopri5 at a tight tolerance is near that; on coarse "
        "steps the two part",
    ),
    "reversible_heun_by_tenths": Said(
        f"`sdeint_adjoint` by reversible Heun, dt = 1/10: {GRADIENTS}",
        "{:.2g}",
        'DOCUMENTATION: "almost zero numerical error, as the adjoint solver carefully reconstructs '
        'the numerical trajectory"',
        "right for steps that a binary number holds (next row): the way back adds its times up "
        "anew. Ours differs by the "
        "path's own rounding",
    ),
    "reversible_heun_by_sixteenths": Said("the same, dt = 1/16", "{:.2g}", "the same", "exact, as promised"),
    "captured_by_the_equation": Said(
        f"`sdeint_adjoint` by reversible Heun, a tensor that the equation holds and that is no "
        f"parameter: {GRADIENTS} there",
        "{:.2g}",
        'DOCUMENTATION: `adjoint_params` "defaults to `sde.parameters()`"',
        "so it is said; but a part of the gradient comes back, that of the first step, which looks like one",
    ),
    "third_order": Said(
        "`DPMSolverMultistepScheduler(solver_order=3)`: order measured",
        "{:.1f}",
        '"The DPMSolver order which can be `1` or `2` or `3`"; "third-order multistep DPMSolver"',
        "at 12 and 24 calls little is lost, on digits at 48 it is ahead: [error against "
        "calls](orders.md#error-against-network-calls)",
    ),
    "third_order_with_noise": Said(
        'the same with `algorithm_type="sde-dpmsolver++"`: weak order measured',
        "{:.1f}",
        "the same",
        "nominal third order is 2 at best with noise; below 1 is a sign that is wrong",
    ),
    "variance_of_stochastic_flow": Said(
        "`FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)`: variance of samples of data "
        "N(0.3, 0.25), 400 steps",
        "{:.3f}",
        '"Whether to use stochastic sampling"',
        "for distilled models that predict x_0 at once it is the usual sampler; for a flow it is not its SDE",
    ),
    "spacing_of_ddim": Said(
        '`DDIMScheduler(timestep_spacing="linspace")`, 20 steps: steps that lead to another level '
        "than the next starts from",
        "{} of 19",
        '"The way the timesteps should be scaled", one of three',
        "right for `leading`, the default, and for `trailing` where the steps divide 1000",
    ),
    "graph_kept_by_a_scheduler": Said(
        "schedulers of ten that hold tensors with a graph, and so activations, after a differentiated run",
        "{}",
        "nothing",
        "nothing is differentiated in the pipelines, which are under `no_grad`; a new "
        "`set_timesteps` lets go",
    ),
    "third_order_of_k_diffusion": Said(
        "`sample_dpmpp_3m_sde` without noise: order measured", "{:.1f}", '"DPM-Solver++(3M) SDE"', "as above"
    ),
    "batch_mates_in_adaptive_steps": Said(
        "`sample_dpm_adaptive`: how far a sample moves when seven join its batch, relative",
        "{:.2g}",
        "nothing",
        "within its tolerance of 5 %; one norm over the batch is the cheaper loop",
    ),
    "seed_of_zero": Said(
        "`DiffPIR(y, physics, seed=0)` twice: how far apart, relative",
        "{:.2g}",
        '"the seed for the random number generator"',
        "any seed but 0 is used; `DDRM` reads the same way, the SDE solvers do not",
    ),
    "density_of_the_last_step": Said(
        "DDPO's rollout under `DDIMScheduler()` as it is: log-probabilities of 10 that are not finite",
        "{}",
        '"Log probability of the above mentioned sample"',
        "Stable Diffusion's `steps_offset=1` avoids it: the last step then goes from level 1 to level 0",
    ),
}


def table(found: dict[str, Any]) -> str:
    """Of docs/peers.md: a line a fault, in their order in peers_faults.json."""
    lines = ["| | theirs | ours | its pages say | where it is right |", "|---|---|---|---|---|"]
    for name, row in found.items():
        said = SAID[name]
        cells = [v if isinstance(v, str) else said.shown.format(v) for v in (row["theirs"], row["ours"])]
        what = f"**{row['library']}** {row['version']}: {said.what}"
        lines.append(f"| {what} | {cells[0]} | {cells[1]} | {said.promise} | {said.right} |")
    return "\n".join(lines)
