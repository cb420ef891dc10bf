"""The rows of docs/orders.md: public methods in one or two variants, and diffusers' schedulers as plans."""

import math
import pathlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "support"))

from problems import warped  # noqa: E402

from pullback import solvers as s  # noqa: E402
from pullback.solvers.methods.unipc import BVariant  # noqa: E402

LEVELS = 1201
Maker = Callable[[int], tuple[s.Plan, float]]
"""steps -> the plan without its last step, and the scale of its start."""


@dataclass(frozen=True)
class Row:
    """A method, a scheduler's label in `schedulers`, a remark; tau where the strong order is measured, and the ends of
    its draws.
    """

    method: s.Method
    theirs: str = ""
    remark: str = ""
    tau: float | None = None
    ends: tuple[float, ...] = (1.0,)


UNIFORM = "weights of equal steps in rho, as published"
ODE = [
    Row(s.DDIM(), "DDIM"),
    Row(s.DDIM(), "Euler", "the same method in sigma/alpha"),
    Row(s.DPMSolverPP(2), "DPMSolverMultistep 2"),
    Row(s.DPMSolverPP(3), "DPMSolverMultistep 3", "shipped with half of its second-derivative term"),
    Row(s.DPMSolverPPSingle(2), "DPMSolverSinglestep 2"),
    Row(s.DPMSolverPPSingle(3), "DPMSolverSinglestep 3"),
    Row(s.DPMSolverPPFast(2)),
    Row(s.DPMSolverPPFast(0), remark="one step of order 1 at the end"),
    Row(s.DPMSolver(2)),
    Row(s.DPMSolver(3)),
    Row(s.DPMSolver(2, exact=True), "DEISMultistep 2", "log-rho AB, shipped as DEIS with float32 weights"),
    Row(s.DPMSolver(3, exact=True), "DEISMultistep 3", "the same"),
    Row(s.DPMSolverSingle(2)),
    Row(s.DPMSolverSingle(3)),
    Row(s.DPMSolverFast(2)),
    Row(s.KDPM2(), "KDPM2Discrete"),
    *(Row(s.DEIS(k), remark="tAB") for k in (1, 2, 3, 4)),
    *(Row(s.LMS(k)) for k in (2, 3)),
    Row(s.LMS(4), "LMSDiscrete"),
    Row(s.IPNDM(), "IPNDM", UNIFORM),
    Row(s.PLMS(), "PNDM, skip_prk_steps", UNIFORM),
    Row(s.PNDM(), "PNDM", UNIFORM),
    Row(s.GHVB(1.8)),
    Row(s.GHVB(3.8)),
    Row(s.RhoRK(s.HEUN), "HeunDiscrete"),
    *(Row(s.RhoRK(tableau)) for tableau in (s.MIDPOINT, s.KUTTA3, s.RK4, s.DOPRI5)),
    Row(s.EDMHeun(), "HeunDiscrete"),
    Row(s.EDMPEC()),
    Row(s.UniPC(1), "UniPCMultistep 1"),
    Row(s.UniPC(2), "UniPCMultistep 2"),
    Row(s.UniPC(3), "UniPCMultistep 3", "shipped with float32 weights"),
    Row(s.UniPC(2, BVariant.EXACT)),
    Row(s.UniPC(4)),
    Row(s.SASolver(2, 2, tau=0.0), "SASolver 2, 2"),
    Row(s.SASolver(3, 4, tau=0.0), "SASolver 3, 4", "shipped with float32 weights"),
    Row(s.SEEDS(2, s.NOISE, tau=0.0)),
    *(Row(s.ERSDE(k, phi=1.0)) for k in (1, 2, 3)),
    Row(s.MRS()),
    Row(s.MRS(2, s.NOISE)),
    Row(s.DPMSolverV3(corrector=4), remark="without statistics"),
    Row(s.FlowEuler(), "FlowMatchEuler"),
    Row(s.FlowMidpoint()),
    Row(s.FlowHeun()),
    *(Row(s.FlowAdams(k)) for k in (2, 3, 4)),
    Row(s.ReversibleHeun(), remark="exact inverse"),
    Row(s.OBELM(), remark="exact inverse"),
    Row(s.BDIA(), remark="exact inverse"),
    Row(s.EDICT(), remark="exact inverse"),
    Row(s.Coupled(s.DPMSolverPPSingle(2), zeta=0.99), remark="exact inverse"),
    Row(s.Rex(s.Stages.MIDPOINT), remark="exact inverse"),
]
SDE = [
    Row(s.DDIM(1.0), "DDIM, eta=1"),
    Row(s.DDPM(), "DDPM"),
    Row(s.Ancestral(s.DDIM()), "EulerAncestral"),
    Row(s.Ancestral(s.DPMSolverSingle(2)), "KDPM2Ancestral"),
    Row(s.Ancestral(s.DPMSolverPPSingle(3)), remark="no bound of 2: both halves keep the law"),
    Row(s.EulerMaruyama()),
    Row(s.SDEDPMSolver(), "DPMSolverMultistep sde 1, noise"),
    Row(s.SDEDPMSolverPP(1), "DPMSolverMultistep sde 1", tau=1.0),
    Row(s.SDEDPMSolverPP(2), "DPMSolverMultistep sde 2", tau=1.0),
    Row(s.SDEDPMSolverPP(3), "DPMSolverMultistep sde 3", "shipped with one 1/2 of the wrong sign", tau=1.0),
    Row(s.SEEDS(2), "DPMSolverSDE", tau=1.0, ends=(0.5, 1.0)),
    Row(s.SEEDS(3), tau=1.0, ends=(1 / 3, 2 / 3, 1.0)),
    Row(s.SASolver(2, 2), "SASolver 2, 2, tau=1", tau=1.0),
    Row(s.SASolver(3, 4), "SASolver 3, 4, tau=1", tau=1.0),
    *(Row(s.ERSDE(k, phi=2.0)) for k in (1, 2, 3)),
    Row(s.MRS(2, reverse=s.Reverse.SDE)),
    Row(s.EDMHeun(10.0)),
    Row(s.Restart(s.DPMSolverPPSingle(3), times=2)),
    Row(s.FlowSDE(math.sqrt(2))),
    Row(s.StochasticFlow(0.1)),
    Row(s.StochasticImprovedEuler()),
    Row(s.ReversibleHeun(tau=1.0), remark="exact inverse", tau=1.0),
    Row(s.Rex(s.Stages.SHARK, sde=True, zeta=0.999), remark="exact inverse"),
]


def schedulers() -> dict[str, Maker]:
    """Plans of diffusers' schedulers with about n steps on the table, and a last one to clean data, by label."""
    import diffusers

    d: Any = diffusers

    d.utils.logging.set_verbosity_error()
    kept = torch.sigmoid(2 * warped(LEVELS - 1).flip(0))
    betas = 1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    table = {"num_train_timesteps": LEVELS, "trained_betas": betas.numpy()}

    def on_table(
        kind: str, spacing: str = "linspace", step: dict[str, Any] | None = None, **config: Any
    ) -> Maker:
        if kind.endswith("Singlestep"):
            given = {**table, **config}
        else:
            given = {**table, "timestep_spacing": spacing, **config}
        extra = int(given.get("timestep_spacing", "linspace") == "linspace")

        def make(n: int) -> tuple[s.Plan, float]:
            scheduler = getattr(d, f"{kind}Scheduler")(**given)
            found = s.plan_from_scheduler(scheduler, n + extra, **(step or {}))
            return found.plan.split(found.plan.steps - 1)[0], found.scale

        return make

    class IPNDMScheduler(d.IPNDMScheduler):
        """Without answers that no step will use: it keeps them all, and there are registers for a few."""

        def step(self, *given: Any, **options: Any) -> Any:
            self.ets = self.ets[-3:]
            return super().step(*given, **options)

    def angles(n: int) -> tuple[s.Plan, float]:
        """On levels of its own: the inner four fifths."""
        found = s.plan_from_scheduler(IPNDMScheduler(), n, begin=n // 10)
        return found.plan.split(n - 2 * (n // 10))[0], found.scale

    def flow(n: int) -> tuple[s.Plan, float]:
        sigmas = torch.sigmoid(-warped(n)).tolist()
        found = s.plan_from_scheduler(d.FlowMatchEulerDiscreteScheduler(), sigmas=sigmas)
        return found.plan.split(n)[0], found.scale

    whole: dict[str, Any] = {"spacing": "leading", "set_alpha_to_one": True}
    found: dict[str, Maker] = {
        "DDIM": on_table("DDIM", **whole, clip_sample=False),
        "DDIM, eta=1": on_table("DDIM", **whole, clip_sample=False, step={"eta": 1.0}),
        "DDPM": on_table("DDPM", "leading", clip_sample=False),
        "PNDM": on_table("PNDM", **whole),
        "PNDM, skip_prk_steps": on_table("PNDM", **whole, skip_prk_steps=True),
        "IPNDM": angles,
        "FlowMatchEuler": flow,
        "Euler": on_table("EulerDiscrete"),
        "EulerAncestral": on_table("EulerAncestralDiscrete"),
        "KDPM2Ancestral": on_table("KDPM2AncestralDiscrete"),
        "DPMSolverSDE": on_table("DPMSolverSDE"),
        "DPMSolverMultistep sde 1, noise": on_table(
            "DPMSolverMultistep",
            solver_order=1,
            algorithm_type="sde-dpmsolver",
            final_sigmas_type="sigma_min",
        ),
        **{kind: on_table(kind) for kind in ("KDPM2Discrete", "HeunDiscrete", "LMSDiscrete")},
    }
    for k in (1, 2, 3):
        for kind in ("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep"):
            found[f"{kind} {k}"] = on_table(kind, solver_order=k)
        sde = {"solver_order": k, "algorithm_type": "sde-dpmsolver++"}
        found[f"DPMSolverMultistep sde {k}"] = on_table("DPMSolverMultistep", **sde)
    for p, c in ((2, 2), (3, 4)):
        for tau, name in ((0.0, ""), (1.0, ", tau=1")):
            own: dict[str, Any] = {
                "predictor_order": p,
                "corrector_order": c,
                "tau_func": lambda t, tau=tau: tau,
            }
            found[f"SASolver {p}, {c}{name}"] = on_table("SASolver", **own)
    return found
