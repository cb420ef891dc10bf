"""One good use of every public class and function that takes arguments: what bad input is put in the place of.

A use goes on to where its object is needed: a grid is compiled, a method sampled, a guide steered.
"""

import inspect
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pullback import adjoint, guidance, solvers
from pullback.adjoint import Checkpoint, Direct, Gradient, sample
from pullback.guidance import GaussianNoise, Guide, Linf, Mask, Matrix, Measurement, steer
from pullback.solvers import (
    DATA,
    DDIM,
    FLOW,
    SCORE,
    VP,
    Addressed,
    Clock,
    Denoiser,
    DPMSolverPP,
    DriftDiffusion,
    DriftMethod,
    FlowEuler,
    Grid,
    Method,
    PhaseMethod,
    PhaseSpaceLangevin,
    RectifiedFlow,
    ReversibleHeun,
    Rising,
    UniformLambda,
    UniformT,
)

from .morph_calls import morphs
from .recognition_calls import recognition
from .use import Make, Use, called

DIM, BATCH = 4, 2
CALLS = [0]  # of the network, since the last use began


class Watched(nn.Module):
    """A network that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(DIM, DIM).requires_grad_(True)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        CALLS[0] += 1
        return torch.tanh(self.inner(x))


NET = Watched()
GRID = UniformLambda(3, start=0.9, end=0.1)

SLOPE = nn.Parameter(torch.ones(()))


def denoiser() -> Denoiser:
    return Denoiser(NET, VP(), DATA)


def flow() -> Denoiser:
    return Denoiser(NET, RectifiedFlow(), DATA)


def plan() -> Any:
    return DDIM().plan(VP(), GRID)


def noisy_plan() -> Any:
    return DDIM(0.8).plan(VP(), GRID)


def flow_plan() -> Any:
    return DDIM().plan(RectifiedFlow(), UniformT(3, start=0.9, end=0.1))


def reversible_plan() -> Any:
    return ReversibleHeun().plan(VP(), GRID)


def state() -> Tensor:
    return torch.linspace(-1, 1, BATCH * DIM).reshape(BATCH, DIM)


def start() -> Tensor:
    return state().requires_grad_()


def brightness(x: Tensor, context: Any = None) -> Tensor:
    return x.flatten(1).mean(1)


def seen() -> Measurement:
    return Measurement(
        Mask(torch.tensor([1.0, 0, 1, 0])), torch.ones(BATCH, DIM) * torch.tensor([1.0, 0, 1, 0]), 0.3
    )


def model_for(method: Method) -> Denoiser:
    """What it is a method of."""
    if isinstance(method, PhaseMethod):
        return Denoiser(lambda z, t: -z, PhaseSpaceLangevin(), SCORE)
    if isinstance(method, DriftMethod):
        return Denoiser(DriftDiffusion(lambda x, t: (-x, 0.1)), Clock(), FLOW)
    return denoiser()


def whole(made: Any) -> Any:
    """What an object is for."""
    if isinstance(made, Grid):
        return DDIM().plan(VP(), made)
    if isinstance(made, Method):
        model = model_for(made)
        steps = made.plan(model.process, GRID)
        return sample(model, steps, state(), noise=Addressed(0) if steps.slots else None, gradient=None)
    if isinstance(made, Gradient):
        chosen = reversible_plan() if "Reversible" in str(made) else DPMSolverPP(2).plan(VP(), GRID)
        chosen = FlowEuler().plan(VP(), GRID) if isinstance(made, adjoint.SkipStraight) else chosen
        return sample(denoiser(), chosen, start(), gradient=made).sum().backward()
    if isinstance(made, Guide):
        return steer(denoiser(), noisy_plan(), state(), made, noise=Addressed(0))
    return made


def made(cls: Any, **good: Make) -> Use:
    """The construction of an object, and its use."""
    return Use(cls.__name__, lambda **arguments: whole(cls(**arguments)), good, cls)


def _grids() -> Iterator[Use]:
    for cls in (solvers.UniformT, solvers.UniformLambda, solvers.Karras, solvers.Quadratic, solvers.Shifted):
        yield made(cls, n=lambda: 3, start=lambda: 0.9, end=lambda: 0.1)
    yield made(solvers.GivenTimes, values=lambda: torch.linspace(0.9, 0.1, 4))


def _by_defaults() -> Iterator[Use]:
    """Every public method and strategy that needs nothing."""
    for layer, kind in ((solvers, Method), (adjoint, Gradient)):
        for name in layer.__all__:
            cls = getattr(layer, name)
            if inspect.isclass(cls) and issubclass(cls, kind) and not inspect.isabstract(cls):
                needed = [p for p in inspect.signature(cls).parameters.values() if p.default is p.empty]
                if not needed and cls is not adjoint.TorchSDE:  # optional, and slow
                    yield made(cls)


def _guides() -> Iterator[Use]:
    nats = {"loss": lambda: seen().nats}
    for cls in (
        guidance.DPS, guidance.DataGuidance, guidance.FlowChef, guidance.FreeDoM, guidance.Greedy, guidance.LGD,
        guidance.Lookahead, guidance.MPGD, guidance.REDdiff, guidance.TFG, guidance.Universal,
    ):  # fmt: skip
        yield made(cls, **nats)
    for cls in (guidance.DAPS, guidance.DDNM, guidance.DiffPIR, guidance.MCG, guidance.PiGDM, guidance.TMPD):
        yield made(cls, measurement=seen)
    yield made(guidance.ClassifierGuidance, log_prob=lambda: lambda x, t: -0.01 * x.square().sum(1))
    yield made(guidance.Window, guide=lambda: guidance.TMPD(seen()))


RUN: dict[str, Make] = {"denoiser": denoiser, "plan": plan, "x": start}
READ: dict[str, Make] = {"model": denoiser, "plan": plan, "x": state}
LATENT: dict[str, Make] = RUN | {"x": state, "loss": lambda: brightness, "steps": lambda: 1}
PARTICLES: dict[str, Make] = {
    "denoiser": denoiser, "plan": noisy_plan, "x": lambda: torch.randn(BATCH, 2, DIM), "reward": lambda: brightness,
    "noise": lambda: Addressed(0),
}  # fmt: skip


def _calls() -> Iterator[Use]:
    controls: dict[str, Make] = {"controls": lambda: torch.zeros(3, BATCH, DIM)}
    yield called(adjoint.sample, **RUN | controls, gradient=Checkpoint)
    yield Use("sample with noise", adjoint.sample, RUN | {"plan": noisy_plan, "noise": lambda: Addressed(0)})
    yield called(adjoint.trajectory, **RUN, at=lambda: [0, 2])
    yield called(adjoint.pushforward, **RUN | {"x": state}, tangent=state)
    yield called(adjoint.linearised, **RUN | {"x": state})
    yield called(adjoint.singular_directions, **RUN | {"x": state}, k=lambda: 1, rounds=lambda: 1)
    yield called(
        adjoint.audit,
        **RUN | {"x": state},
        loss=lambda: lambda x: x.square().sum(),
        strategies=lambda: {"direct": Direct()},
    )
    levels = adjoint.GridLevels(DDIM(), VP(), GRID, (2, 3), adjoint.CoupledSum((1.0, 0.5)))
    yield called(
        adjoint.sample_multilevel,
        denoiser=denoiser, levels=lambda: levels, x=start, noise=lambda: Addressed(0),
    )  # fmt: skip
    yield called(
        adjoint.measured_levels,
        denoiser=denoiser, method=DDIM, grid=lambda: GRID, steps=lambda: (2, 3), x=start, loss=lambda: brightness,
        noise=lambda: Addressed(0),
    )  # fmt: skip
    yield called(adjoint.plan_gradient, **RUN | controls)
    yield called(solvers.run, **READ)
    yield called(solvers.advance, **READ)
    yield called(solvers.encode, **READ | {"plan": reversible_plan})
    yield called(solvers.coefficients, model=denoiser, plan=plan)
    yield called(
        solvers.compiled,
        make=lambda: lambda t: DDIM().plan(VP(), t),
        theta=lambda: torch.linspace(0.9, 0.1, 4, dtype=torch.float64),
        model=denoiser,
    )
    yield called(
        solvers.convert,
        value=state, x=state, have=lambda: DATA, want=lambda: solvers.NOISE, process=VP, t=lambda: 0.5,
    )  # fmt: skip
    yield called(solvers.expand, plan=plan)
    yield called(
        solvers.moments,
        plan=plan,
        **{k: lambda: 0.5 for k in ("mean", "variance", "start_mean", "start_variance")},
    )
    yield called(
        solvers.adapt, model=denoiser, x=state, pair=solvers.AdaptiveDPM, start=lambda: 0.9, end=lambda: 0.1
    )
    yield made(solvers.AdaptiveDPM)
    yield made(solvers.IntegralControl)
    yield made(solvers.PID)
    yield called(solvers.accepted_times, model=denoiser, x=state, start=lambda: 0.9, end=lambda: 0.1)
    yield made(solvers.Denoiser, network=lambda: NET, process=VP, prediction=lambda: DATA)
    yield made(solvers.ClassifierFree, denoiser=denoiser, scale=lambda: 2.0)
    yield made(solvers.Addressed, seed=lambda: 0)
    yield made(solvers.DiscreteVP, alphas_cumprod=lambda: torch.linspace(0.99, 0.01, 10))
    yield made(
        solvers.Mixture,
        weights=lambda: torch.ones(2) / 2,
        means=lambda: torch.eye(2),
        spread=lambda: torch.eye(2).expand(2, 2, 2),
    )
    yield made(solvers.Gaussian, mean=lambda: torch.zeros(2), cov=lambda: 1.0)
    yield made(adjoint.PerStep, values=lambda: torch.zeros(3, DIM))
    yield Use(
        "Method.plan", lambda process, grid: DDIM().plan(process, grid), {"process": VP, "grid": lambda: GRID}
    )
    yield called(guidance.optimise, **LATENT)
    for name in ("d_flow", "dno", "doodl", "reno"):
        more: dict[str, Make] = {"noise": lambda: Addressed(0), "plan": noisy_plan} if name == "dno" else {}
        more |= {"plan": reversible_plan} if name == "doodl" else {}
        yield called(getattr(guidance, name), **LATENT | more)
    for name in ("flow_grad", "oc_flow"):
        yield called(getattr(guidance, name), **LATENT | controls | {"denoiser": flow, "plan": flow_plan})
    yield made(guidance.adam)
    yield made(guidance.Over)
    yield called(
        guidance.steer, **RUN | {"x": state, "plan": noisy_plan}, noise=lambda: Addressed(0),
        guide=lambda: guidance.TMPD(seen()),
    )  # fmt: skip
    yield called(
        guidance.learn_solver,
        **{
            "denoiser": denoiser,
            "plan": plan,
            "teacher": lambda: DPMSolverPP(2).plan(VP(), GRID),
            "x": state,
        },
        steps=lambda: 1,
    )
    yield called(
        guidance.implicit_diffusion,
        sampler=lambda: guidance.LangevinChain(lambda x: x.square().sum(1) * SLOPE, state()),
        loss=lambda: brightness,
        parameters=lambda: [SLOPE],
        steps=lambda: 1,
    )
    yield called(guidance.d_ode, denoiser=denoiser, grid=lambda: GRID, x=state, scale=lambda: 2)
    presets: dict[str, Make] = {
        "denoiser": denoiser,
        "grid": lambda: GRID,
        "teacher": lambda: DPMSolverPP(2).plan(VP(), GRID),
        "x": state,
        "steps": lambda: 1,
    }
    yield called(guidance.bespoke, **presets)
    yield called(guidance.s4s, **presets, rounds=lambda: 1)
    yield called(guidance.ays, denoiser=denoiser, grid=lambda: GRID, data=state, levels=lambda: 4)
    yield called(guidance.smc, **PARTICLES)
    yield called(guidance.svdd, **PARTICLES | {"x": state}, children=lambda: 2)
    yield called(guidance.best_of, **PARTICLES)
    yield called(guidance.ess, log_weights=lambda: torch.zeros(BATCH, 3))
    yield called(
        guidance.pgd,
        loss=lambda: lambda x: x.square().sum(1),
        starts=state,
        balls=lambda: Linf(0.1),
        steps=lambda: 2,
    )
    yield called(guidance.purify, denoiser=denoiser, plan=plan, image=state, start=state)
    # labels are whole numbers, for which there are no bad values here: they stay
    yield Use(
        "robust_accuracy",
        lambda **given: guidance.robust_accuracy(labels=torch.zeros(BATCH, dtype=torch.long), **given),
        {
            "defence": lambda: guidance.Undefended(lambda x: x[:, :3]),
            "images": state,
            "ball": lambda: Linf(0.1),
            "attacks": lambda: {"ce": guidance.Evasion(steps=2)},
        },
        guidance.robust_accuracy,
    )
    yield called(
        guidance.certify, classifier=lambda: lambda x: x[:, :3], images=state, sigma=lambda: 0.5, draws=lambda: 20,
        selection=lambda: 5,
    )  # fmt: skip
    yield called(guidance.one_step_denoise, denoiser=denoiser, noisy=state, sigma=lambda: 0.5)
    yield called(guidance.regeneration_distance, denoiser=denoiser, plan=plan, images=state)
    yield made(guidance.Linf, radius=lambda: 0.1)
    yield made(guidance.L2, radius=lambda: 0.1)
    yield made(Measurement, physics=lambda: Matrix(torch.eye(DIM)), y=state, noise_std=lambda: 0.1)
    yield made(Mask, mask=lambda: torch.ones(DIM))
    yield made(Matrix, matrix=lambda: torch.eye(DIM))
    yield made(GaussianNoise, sigma=lambda: 0.1)
    yield made(guidance.Downsample, factor=lambda: 2)
    yield made(
        guidance.Decoded, decode=lambda: torch.tanh, physics=lambda: Matrix(torch.eye(DIM)), at_once=lambda: 1
    )
    yield made(guidance.Blur, kernel=lambda: torch.ones(3, 3) / 9)
    yield called(guidance.evaluate_reward, reward=lambda: brightness, samples=state)
    yield made(guidance.LinearReward, slope=lambda: torch.ones(DIM))
    yield made(guidance.QuadraticReward, centre=lambda: torch.ones(DIM))
    for name in (
        "DDPO",
        "DPOK",
        "DRaFT",
        "DRaFTLV",
        "FlowGRPO",
        "DanceGRPO",
        "ReFL",
        "AdjointMatching",
        "AlignProp",
    ):
        yield made(getattr(guidance, name))
    yield called(guidance.read_log, path=lambda: __import__("pathlib").Path("/nowhere/log.jsonl"))


def _densities() -> Iterator[Use]:
    rising: Make = lambda: DDIM().plan(VP(), Rising(GRID))  # noqa: E731
    yield called(adjoint.log_prob, **RUN | {"plan": rising})
    yield called(adjoint.map_log_det, **RUN | {"x": state})
    yield called(adjoint.sampler_log_prob, **RUN | {"x": state})
    for divergence in (adjoint.ExactDivergence, adjoint.Hutchinson, adjoint.HutchPP):
        yield Use(
            divergence.__name__,
            lambda divergence=divergence, **given: adjoint.log_prob(
                denoiser(), rising(), state(), divergence=divergence(**given)
            ),
            {},
            divergence,
        )
    for law in (adjoint.UniformDequantisation, adjoint.NormalDequantisation):
        yield Use(
            law.__name__,
            lambda law=law, **given: law(**given)(state(), rising(), Addressed(0)),
            {"width": lambda: 0.1},
            law,
        )
    yield made(adjoint.GaussianPrior)


def _edits() -> Iterator[Use]:
    edit = guidance.edit
    prompts: dict[str, Make] = {"source": lambda: None, "target": lambda: None}
    image = prompts | {"denoiser": denoiser, "image": state}
    flows = image | {"denoiser": flow, "grid": lambda: UniformT(3, start=0.9, end=0.1)}
    yield called(edit.sdedit, **image | {"plan": noisy_plan})
    yield called(edit.edit_friendly, **image | {"plan": noisy_plan})
    yield called(edit.cycle_diffusion, **image | {"plan": noisy_plan})
    yield called(edit.ddim_inversion, **image, grid=lambda: GRID)
    yield called(edit.ode_inversion, **image, grid=lambda: GRID, method=DDIM)
    yield called(edit.aidi, **image | {"plan": plan})
    yield called(edit.flow_edit, **flows, n_max=lambda: 2)
    for function in (edit.fireflow, edit.rf_solver, edit.rf_inversion):
        yield called(function, **flows)
    yield called(edit.rf_invert, **flows)
    yield called(edit.rf_regenerate, **flows, latent=state, cond=lambda: None)


def _readings() -> Iterator[Use]:
    yield called(solvers.inversion, plan=reversible_plan)
    yield called(solvers.response, plan=plan, mean=lambda: 0.5, variance=lambda: 0.5)
    yield called(solvers.recover_noise, model=denoiser, plan=noisy_plan, x0=state, noise=lambda: Addressed(0))
    yield called(guidance.gaussian_logprob, x=state, m=state, s=lambda: 0.5)
    yield called(guidance.memory, plan=noisy_plan)
    yield called(guidance.memoryless, plan=noisy_plan)
    yield called(guidance.reference_of, model=denoiser)
    yield called(guidance.straight_through, image=state, purified=state)
    yield called(guidance.starting_particles, noise=lambda: Addressed(0), like=state, count=lambda: 2)
    yield called(
        guidance.batch_arithmetic,
        samples=lambda: 4, updates=lambda: 1, limit=lambda: 2, repeats=lambda: 2, processes=lambda: 1,
    )  # fmt: skip
    yield called(adjoint.as_ode, denoiser=denoiser)


# functions that no use stands for, and why
LEFT_OUT = {
    "combine": "the loop's inner sum: nothing is checked there, it runs thousands of times",
    "decode": "starts from what encode returns, enrolled there",
    "exact_inversion": "starts from a rising plan; encode is enrolled",
    "as_sde": "torchsde is optional",
    "ito_log_prob": "takes the states of a run; under tests/adjoint/density/test_ito.py",
    "superpose": "several models; under tests/adjoint/density/test_superpose.py",
    "model_statistics": "a calibration; under tests/solvers/test_dpm_v3.py",
    "as_scheduler": "needs diffusers: under tests/solvers/schedulers/test_as_scheduler.py",
    "from_diffusers": "needs diffusers: under tests/solvers/pipelines/test_from_diffusers.py",
    "plan_from_scheduler": "needs diffusers: under tests/solvers/schedulers/test_parity.py",
    "lbfgs": "its factory takes what adam's takes",
    "levenberg": "a factory as adam's; under tests/guidance/latents/test_levenberg.py",
    "advdiff": "a second network; Adversarial stands under the laws of guides",
    "code": "an inner optimisation; sdedit is enrolled",
    "learn_schedule": "an inner optimisation; rf_inversion is enrolled",
    "sde_drag": "takes images only",
    "lora": "needs peft; under tests/guidance/train/test_adapter.py",
    "load_adapter": "files: under tests/guidance/train/test_adapter.py",
    "save_adapter": "files: under tests/guidance/train/test_adapter.py",
    "load_weights": "files: under tests/guidance/train/test_adapter.py",
    "save_weights": "files: under tests/guidance/train/test_adapter.py",
    "check": "takes real data; under tests/solvers/test_checking.py",
    "dlib_black_box": "takes what dlib_face takes",
    "visited": "inside an objective; the trainer checks",
}


def uses() -> list[Use]:
    """All of them."""
    return [
        *_calls(),
        *_densities(),
        *_edits(),
        *recognition(),
        *morphs(denoiser()),
        *_readings(),
        *_grids(),
        *_by_defaults(),
        *_guides(),
    ]


def takes_arguments() -> Iterator[str]:
    """Every public function."""
    shelves = [solvers, adjoint] + [v for v in vars(guidance).values() if isinstance(v, types.ModuleType)]
    for shelf in shelves:
        for name in getattr(shelf, "__all__", ()):
            thing = getattr(shelf, name)
            if inspect.isfunction(thing):
                yield name
