"""Small figures of the pages, on problems whose answer is known: a minute on one core.

    python benchmarks/small_studies.py      writes benchmarks/results/small_studies.json

round trips    docs/editing.md: image to latent and back in 50 steps, rms over 64 data of six Gaussians in 16 dimensions
               under their exact model; std of the noise that is recovered from an image
dpm v3         docs/methods.md: RMS error on the mixture of the tests, times quadratic
adaptive       docs/adaptive.md: (error, network calls) on that mixture, of adaptive and fixed third-order steps
shipped        docs/diffusers.md: largest error of schedulers at 20, 40 and 80 steps on a mixture, as they ship and with
               their true order; mean and variance that they make of N(0.3, 0.25) in 100, 400 and 900 steps
"""

import json
import pathlib
import sys
from typing import Any

import torch
from torch import Tensor

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from problems import MIXTURE, PROCESS  # noqa: E402
from scheduler_cases import SD, Case  # noqa: E402

from pullback.guidance import edit  # noqa: E402
from pullback.solvers import (  # noqa: E402
    BDIA,
    DDPM,
    DOPRI5,
    EDICT,
    EDM,
    OBELM,
    VP,
    AdaptiveDPM,
    Addressed,
    DPMSolverPP,
    DPMSolverSingle,
    DPMSolverV3,
    Method,
    Mixture,
    Model,
    Process,
    Quadratic,
    ReversibleHeun,
    RhoRK,
    Rising,
    UniformLambda,
    UniformT,
    UniPC,
    adapt,
    model_statistics,
    moments,
    run,
)
from pullback.solvers.process import as_time  # noqa: E402
from pullback.solvers.schedulers import plan_from_scheduler  # noqa: E402


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def round_trips() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    law = Mixture.isotropic(torch.ones(6), torch.randn(6, 16, generator=generator), 0.3)
    model, x = law.denoiser(VP()), law.sample(64, generator)
    down, same = UniformLambda(50, start=0.9, end=0.02), dict[str, Any](source=None, target=None)
    found = {"DDIM": rms(edit.ddim_inversion(model, x, grid=down, **same).sample - x)}
    for method in (EDICT(), BDIA(), OBELM(), ReversibleHeun(), BDIA(0.5)):
        plan = method.plan(model.process, Rising(down))
        found[str(method)] = rms(edit.exact_inversion(model, plan, x, **same).sample - x)
    plan, stds = DDPM().plan(model.process, down), {}
    for call in (edit.cycle_diffusion, edit.edit_friendly):
        result = call(model, plan, x, **same)
        stds[call.__name__] = float(result.noise.values.std())  # type: ignore
        found["recovered noise"] = max(found.get("recovered noise", 0.0), rms(result.sample - x))
    return {"rms": found, "std of the recovered noise": stds}


def dpm_v3() -> dict[str, Any]:
    model, ends = MIXTURE.denoiser(PROCESS), dict[str, Any](start=1.0, end=1e-3)
    found = model_statistics(model, MIXTURE.sample(500, torch.Generator().manual_seed(0)), **ends)
    start = torch.randn(256, 2, generator=torch.Generator().manual_seed(5))

    def sampled(method: Method, grid: Any) -> Tensor:
        return run(model, method.plan(PROCESS, grid), start)

    truth = sampled(RhoRK(DOPRI5), UniformLambda(200, **ends))
    methods = {
        "DPMSolverV3(found, 2, 2)": DPMSolverV3(found, 2, 2), "DPMSolverV3(found)": DPMSolverV3(found),
        "DPMSolverPP(2)": DPMSolverPP(2), "UniPC(2)": UniPC(2),
    }  # fmt: skip
    return {
        name: {str(n): rms(sampled(method, Quadratic(n, **ends)) - truth) for n in (5, 8, 12, 24)}
        for name, method in methods.items()
    }


def adaptive() -> dict[str, Any]:
    start = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, process, grid, ends in (
        ("VP, uniform in lambda", PROCESS, UniformLambda, (1.0, 0.02)),
        ("EDM, uniform in t", EDM(), UniformT, (80.0, 0.02)),
    ):  # fmt: skip
        model, x = MIXTURE.denoiser(process), start * float(process.sigma(as_time(ends[0])))
        truth = solved(model, process, x, ends)
        taken = adapt(model, x, AdaptiveDPM(3), *ends, rtol=0.02, atol=0.003)
        steps = round(float(taken.calls.double().mean()) / 3)
        plan = DPMSolverSingle(3).plan(process, grid(steps, start=ends[0], end=ends[1]))
        found[name] = {
            "AdaptiveDPM(3)": [rms(taken.state - truth), float(taken.calls.double().mean())],
            "fixed": [rms(run(model, plan, x) - truth), plan.nfe],
        }
    return found


def solved(model: Model, process: Process, x: Tensor, ends: tuple[float, float]) -> Tensor:
    return run(model, RhoRK(DOPRI5).plan(process, UniformLambda(400, start=ends[0], end=ends[1])), x)


KARRAS = {**SD, "use_karras_sigmas": True}
ORDERS = {
    "DPMSolverMultistep, order 3, lu": Case(
        "DPMSolverMultistep", {**SD, "use_lu_lambdas": True, "solver_order": 3}
    ),
    "DPMSolverMultistep, order 3, karras": Case("DPMSolverMultistep", {**KARRAS, "solver_order": 3}),
    "SASolver, 3 and 4, tau = 0, karras": Case(
        "SASolver", {**KARRAS, "predictor_order": 3, "corrector_order": 4, "tau_func": lambda t: 0}
    ),
    "DEISMultistep, order 3, karras": Case("DEISMultistep", {**KARRAS, "solver_order": 3}),
    "EDMDPMSolverMultistep, order 3": Case("EDMDPMSolverMultistep", {"solver_order": 3}),
}
CHURN = {"s_churn": 10.0}
LAWS = {
    "FlowMatchEuler, stochastic_sampling": Case("FlowMatchEulerDiscrete", {"stochastic_sampling": True}),
    "FlowMatchHeun": Case("FlowMatchHeunDiscrete", options=CHURN),
    "EDMEuler": Case("EDMEuler", options=CHURN),
    "EulerDiscrete, eps": Case("EulerDiscrete", KARRAS, options=CHURN),
    "EulerDiscrete, v": Case("EulerDiscrete", {**KARRAS, "prediction_type": "v_prediction"}, options=CHURN),
}


def error(found: Any) -> float:
    """Largest, at the last positive noise level, from eight starts."""
    plan = found.plan.split(found.plan.steps - 1)[0]
    means, spreads = torch.tensor([[0.4, -0.7], [-0.5, 0.3]]), torch.tensor([0.3, 0.4])
    denoiser = Mixture.isotropic(torch.ones(2) / 2, means, spreads).denoiser(found.process)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(3)) * found.scale
    ends = as_time(plan.times)[[0, -1]]
    low, high = found.process.lam(ends).tolist()
    fine = found.process.time(torch.linspace(low, high, 801))
    fine[0], fine[-1] = ends
    true = run(denoiser, DPMSolverPP(3).along(found.process, fine), x)
    noise = Addressed(0) if found.plan.stochastic else None
    return float((run(denoiser, plan, x, noise=noise) - true).abs().max())


def made_of_a_gaussian(case: Case, steps: int) -> list[float]:
    found = plan_from_scheduler(case.scheduler(), steps, **case.options)
    start = as_time(found.plan.times[0])
    alpha, sigma = float(found.process.alpha(start)), float(found.process.sigma(start))
    return [float(v) for v in moments(found.plan, 0.3, 0.25, alpha * 0.3, alpha**2 * 0.25 + sigma**2)[:2]]


def shipped() -> dict[str, Any]:
    errors = {
        name: {
            way: [
                error(plan_from_scheduler(case.scheduler(), n, corrected=way == "corrected"))
                for n in (20, 40, 80)
            ]
            for way in ("ships", "corrected")
        }
        for name, case in ORDERS.items()
    }
    laws = {name: [made_of_a_gaussian(case, n) for n in (100, 400, 900)] for name, case in LAWS.items()}
    return {"errors": errors, "laws": laws}


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    facts: dict[str, Any] = {"torch": torch.__version__}
    for name, study in (
        ("round trips", round_trips), ("dpm v3", dpm_v3), ("adaptive", adaptive), ("shipped", shipped)
    ):  # fmt: skip
        facts[name] = study()
        print(name, json.dumps(facts[name], indent=1), flush=True)
    (ROOT / "benchmarks" / "results" / "small_studies.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
