"""Everything in `pullback.guidance` that a gradient runs through, as functions of the strategy and of the method.

A new consumer is enrolled by a function here; one that takes no `gradient=` by its reason in WITHOUT.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from objectives import gradients
from torch import Tensor, nn

from pullback import guidance
from pullback.adjoint import Checkpoint, Direct, Gradient, Mechanism, Reversible
from pullback.guidance import Batch, Guide, MorphStrategy, Objective, Policy, adam, edit
from pullback.guidance.adversarial import Defence
from pullback.solvers import (
    DATA,
    DDIM,
    FLOW,
    VP,
    Addressed,
    Denoiser,
    Method,
    Plan,
    RectifiedFlow,
    ReversibleHeun,
    UniformLambda,
    UniformT,
)

# a new exact strategy is a line here: how far it may be from plain autograd, everywhere
EXACT: dict[Gradient, float] = {
    Checkpoint(): 1e-10,
    Checkpoint(mechanism=Mechanism.REGION): 1e-10,
    Reversible(): 1e-10,
}

CALLS = [0]  # of the network, since somebody set it to 0


class Net(nn.Module):
    """A smooth network of a state of any shape and a number as conditioning, that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.9, 0.4, 0.7]))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        CALLS[0] += 1
        rows = x.flatten(1)
        mixed = self.weight[0] * rows + self.weight[1] * rows.roll(1, 1) * t[:, None] + 0.1
        out = self.weight[2] * torch.tanh(mixed).view_as(x)
        return out if cond is None else out + cond.sin() * x.cos()


def grid(n: int = 4) -> UniformLambda:
    return UniformLambda(n, start=0.9, end=0.05)


LINE = UniformT(4, start=0.9, end=0.1)
X = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4).sin()
IMAGES = torch.linspace(-1, 1, 50, dtype=torch.float64).reshape(2, 1, 5, 5).sin()


def model() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(Net(), VP(), DATA)


def flow() -> Denoiser:
    return Denoiser(Net(), RectifiedFlow(), FLOW)


def plan_of(method: Method, n: int = 4) -> Plan:
    return method.plan(VP(), grid(n))


def loss(x: Tensor) -> Tensor:
    return (x - 0.5).flatten(1).square().sum(1)


Use = Callable[[Gradient, Method], list[Tensor]]
SERVES: dict[str, Use] = {}  # by name; any method that falls is given


def consumer(name: str) -> Callable[[Use], Use]:
    """Enrol a use under the public name of its consumer, or `name with ...`."""

    def enrolled(use: Use) -> Use:
        SERVES[name] = use
        return use

    return enrolled


def _found(result: Any) -> list[Tensor]:
    return [result.sample, result.x, result.losses]


@consumer("optimise")
def _(gradient, method):
    denoiser = model()
    over = guidance.Over(cond=True, parameters=True, controls=True)
    found = guidance.optimise(
        denoiser, plan_of(method), loss, X, cond=torch.tensor(0.3), over=over, steps=2, gradient=gradient,
        progress=False,
    )  # fmt: skip
    return [*_found(found), found.cond, found.controls, *denoiser.parameters()]


@consumer("dno")
def _(gradient, method):
    plan, noise = plan_of(method), Addressed(0)
    return _found(
        guidance.dno(model(), plan, loss, X, noise=noise, steps=2, gradient=gradient, progress=False)
    )


for _name in ("d_flow", "doodl", "flow_grad", "oc_flow", "reno"):

    @consumer(_name)
    def _(gradient, method, name=_name):
        act = getattr(guidance, name)
        return _found(act(model(), plan_of(method), loss, X, steps=2, gradient=gradient, progress=False))


def _objective(objective: Objective, method: Method) -> list[Tensor]:
    batch = Batch(X, Addressed(3), torch.zeros(2, dtype=torch.long))
    policy = Policy(model(), plan_of(method), model())
    objective.check(policy)
    return gradients(objective, policy, batch)


@consumer("DRaFT")
def _(gradient, method):
    return _objective(guidance.DRaFT(gradient=gradient), method)


@consumer("DRaFT with a cut")
def _(gradient, method):
    return _objective(guidance.DRaFT(last=2, gradient=gradient), method)


@consumer("DRaFT with a path KL")
def _(gradient, method):
    return _objective(guidance.DRaFT(kl=0.1, gradient=gradient), method)


@consumer("AlignProp")
def _(gradient, method):
    return _objective(guidance.AlignProp(gradient=gradient), method)


@consumer("DRaFTLV")
def _(gradient, method):
    return _objective(guidance.DRaFTLV(gradient=gradient), method)


@consumer("ReFL")
def _(gradient, method):
    return _objective(guidance.ReFL(kl=0.1, penalty=guidance.KL.PATH, gradient=gradient), method)


@consumer("Lookahead")
def _(gradient, method):
    run = guidance.steer(model(), plan_of(method, 6), X, guidance.Lookahead(loss, 5, gradient=gradient))
    return [run.sample, run.losses]


@consumer("steer")
def _(gradient, method):
    x, scale = X.clone().requires_grad_(), torch.tensor(0.1, requires_grad=True)
    guide = guidance.DPS(loss, guidance.Raw(scale))
    run = guidance.steer(model(), plan_of(method), x, guide, through=guidance.Through.FULL, gradient=gradient)
    return [run.sample, *torch.autograd.grad(loss(run.sample).sum(), [x, scale])]


@consumer("smc")
def _(gradient, method):
    x, scale = X.reshape(2, 2, 2).clone().requires_grad_(), torch.tensor(0.1, requires_grad=True)
    guide = guidance.DataGuidance(loss, guidance.Raw(scale))
    cloud = guidance.smc(
        model(), plan_of(method), x, lambda x, _: -loss(x), Addressed(0), proposal=guide, threshold=1.0,
        through=guidance.Through.FULL, gradient=gradient,
    )  # fmt: skip
    return [cloud.x, cloud.log_z, *torch.autograd.grad(cloud.log_z.sum() + cloud.mean().sum(), [x, scale])]


@consumer("purify")
def _(gradient, method):
    image = X.clone().requires_grad_()
    out = guidance.purify(model(), plan_of(method), image, X.cos(), gradient=gradient)
    return [out, *torch.autograd.grad(loss(out).sum(), image)]


@consumer("regeneration_distance")
def _(gradient, method):
    image = X.clone().requires_grad_()
    out = guidance.regeneration_distance(model(), plan_of(method), image, gradient=gradient)
    return [out, *torch.autograd.grad(out.sum(), image)]


def _attacked(defence: Defence) -> list[Tensor]:
    image = X.clone().requires_grad_()
    out = defence.logits(image, Addressed(1))
    return [out, *torch.autograd.grad(out[:, 0].sum(), image)]


@consumer("Purified")
def _(gradient, method):
    return _attacked(guidance.Purified(lambda x: x[:, :3], model(), plan_of(method), gradient))


@consumer("SurrogatePurified")
def _(gradient, method):
    return _attacked(guidance.SurrogatePurified(lambda x: x[:, :3], model(), plan_of(method), 2, gradient))


@consumer("advdiff")
def _(gradient, method):
    found = guidance.advdiff(
        model(), plan_of(method), lambda x: -loss(x), X, lambda x: torch.zeros(2, dtype=torch.bool), rounds=2,
        gradient=gradient,
    )  # fmt: skip
    return [found.sample, found.x]


def _morphed(strategy: MorphStrategy, method: Method) -> list[Tensor]:
    pair, eye = guidance.Pair(X, X.cos()), guidance.Embedding(nn.Identity())
    found = guidance.morph(model(), plan_of(method, 6), pair, [eye], strategy, progress=False)
    return [found.images, found.loss]


@consumer("EndToEnd")
def _(gradient, method):
    return _morphed(guidance.EndToEnd(steps=2, gradient=gradient, optimiser=adam(0.1)), method)


@consumer("LookaheadMorph")
def _(gradient, method):
    return _morphed(guidance.LookaheadMorph(ahead=5, gradient=gradient), method)


def _edited(act: Callable[..., Any], images: Tensor = X, **given: Any) -> list[Tensor]:
    """Sample and gradients of an edit at the image and at what it is asked to become."""
    image, target = images.clone().requires_grad_(), torch.tensor(0.4, requires_grad=True)
    found = act(image, target, **given)
    out = found.sample if isinstance(found, edit.Edit) else found
    grads = torch.autograd.grad(loss(out).sum(), [image, target], allow_unused=True)
    return [out, *(grad for grad in grads if grad is not None)]


@consumer("ode_inversion")
def _(gradient, method):
    return _edited(
        lambda x, c: edit.ode_inversion(
            model(), x, source=torch.tensor(0.1), target=c, method=method, grid=grid(), gradient=gradient
        )
    )


for _name in ("ddim_inversion", "rf_solver", "fireflow", "flow_edit"):

    @consumer(_name)
    def _(gradient, method, name=_name):
        given: dict[str, Any] = {"grid": LINE, "source": torch.tensor(0.1), "gradient": gradient}
        given |= {"n_max": 4, "n_min": 1} if name == "flow_edit" else {}
        return _edited(lambda x, c: getattr(edit, name)(flow(), x, target=c, **given))


@consumer("rf_inversion")
def _(gradient, method):
    given = {"grid": LINE, "method": method, "gamma": 0.2, "eta": 0.3, "gradient": gradient}
    return _edited(lambda x, c: edit.rf_inversion(flow(), x, target=c, **given))


@consumer("rf_invert")
def _(gradient, method):
    given = {"grid": LINE, "method": method, "gamma": 0.2, "gradient": gradient}
    return _edited(lambda x, c: edit.rf_invert(flow(), x, cond=c, **given))


@consumer("rf_regenerate")
def _(gradient, method):
    given = {"grid": LINE, "method": method, "eta": 0.3, "gradient": gradient}
    return _edited(lambda x, c: edit.rf_regenerate(flow(), X.cos(), x, cond=c, **given))


@consumer("code")
def _(gradient, method):
    given = {"grid": grid(), "method": method, "steps": 2, "gradient": gradient}
    return _edited(lambda x, c: edit.code(model(), x, cond=c, **given))


@consumer("sdedit")
def _(gradient, method):
    return _edited(lambda x, c: edit.sdedit(model(), plan_of(method), x, target=c, gradient=gradient))


for _name in ("cycle_diffusion", "edit_friendly"):

    @consumer(_name)
    def _(gradient, method, name=_name):
        given = {"source": torch.tensor(0.1), "gradient": gradient}
        return _edited(lambda x, c: getattr(edit, name)(model(), plan_of(method), x, target=c, **given))


@consumer("sde_drag")
def _(gradient, method):
    given: dict[str, Any] = {"source": (1, 1), "target": (3, 3), "radius": 1, "gradient": gradient}
    return _edited(lambda x, c: edit.sde_drag(model(), plan_of(method), x, cond=c, **given), IMAGES)


@consumer("learn_schedule")
def _(gradient, method):
    given: dict[str, Any] = {"grid": LINE, "method": method, "learn_gamma": True, "gamma": 0.2, "eta": 0.3}
    found = edit.learn_schedule(
        flow(), X, loss, target=torch.tensor(0.4), steps=2, gradient=gradient, **given
    )
    return [found.eta, found.gamma, found.losses]


# those whose plan must draw noise; those whose plans are their own, so that no method makes them reversible; those
# that cut or change one state, where a reversible plan has two
NOISY = {"dno", "DRaFT with a path KL", "ReFL", "cycle_diffusion", "edit_friendly", "sde_drag", "smc"}
OWN_PLAN = {
    "Lookahead",
    "LookaheadMorph",
    "ddim_inversion",
    "rf_solver",
    "fireflow",
    "flow_edit",
    "regeneration_distance",
}
ONE_STATE = {"DRaFTLV", "SurrogatePurified", "advdiff", "steer"}


def method_for(name: str, gradient: Gradient) -> Method:
    """The method of a plan on which `name` can run under `gradient`, if there is one."""
    if name in NOISY:
        return DDIM(0.7)
    return ReversibleHeun() if isinstance(gradient, Reversible) and name not in ONE_STATE else DDIM()


def refuses(name: str, gradient: Gradient) -> bool:
    """Whether the one must refuse the other, for want of a plan that serves both."""
    return isinstance(gradient, Reversible) and name in NOISY | OWN_PLAN | ONE_STATE


# public names that run a sampler or call its network, and take no gradient
ONE_CALL = "differentiates single network calls, which a step makes anyway: there is nothing to choose"
NO_GRADIENT = "takes no gradient through a network"
LIKELIHOOD = "differentiates the likelihood of one step at a time, at states that were visited: one call each"
WITHOUT: dict[str, str] = {
    "AdjointMatching": "its lean adjoint goes step by step over visited states: one VJP each, nothing kept",
    "AdvDM": ONE_CALL,
    "Chain": LIKELIHOOD,
    "Context": "its `lookahead` takes one; the rest " + ONE_CALL,
    "DAPS": NO_GRADIENT + ": it follows the flow",
    "DDPO": LIKELIHOOD,
    "DPOK": LIKELIHOOD,
    "DanceGRPO": LIKELIHOOD,
    "DiffusionGuard": ONE_CALL,
    "FlowGRPO": LIKELIHOOD,
    "Mist": ONE_CALL,
    "Policy": "what is trained and how it is sampled; the objective differentiates",
    "RewardTrainer": "its objective takes one: RewardTrainer(..., DRaFT(gradient=...), ...)",
    "ScoreDistillation": NO_GRADIENT,
    "ShiftQueue": "runs forwards and adjoints back a step at a time, N of each at once: no run to differentiate",
    "Undefended": "no sampler",
    "aidi": NO_GRADIENT + ": the fixed point runs without a graph",
    "ays": NO_GRADIENT + ": it measures the denoiser's error at each node",
    "best_of": NO_GRADIENT + ": it chooses",
    "bespoke": NO_GRADIENT + ": as learn_solver",
    "d_ode": NO_GRADIENT + ": a least-squares fit",
    "exact_inversion": "float64 registers of two runs under plain autograd; `sample(model, plan.inverse(), registers, "
    "gradient=Reversible())` is the way back with a strategy",
    "learn_solver": NO_GRADIENT + ": difference quotients of the plan's numbers",
    "s4s": NO_GRADIENT + ": as learn_solver",
    "lora": "no sampler",
    "memory": "no network",
    "memoryless": "no network",
    "morph": "its strategy takes one",
    "one_step_denoise": ONE_CALL,
    "reference_of": "no sampler",
    "load_adapter": "no sampler",
    "load_weights": "no sampler",
    "save_adapter": "no sampler",
    "save_weights": "no sampler",
    "svdd": NO_GRADIENT + ": it chooses",
    "visited": "states without a graph",
}


def runs_a_sampler(thing: Any) -> bool:
    """Whether a public class or function is given a network to run: by its parameters, or by what kind of thing it is.
    Guides and morph strategies are, unless all they ask for is a single call's VJP.
    """
    if inspect.isclass(thing) and issubclass(thing, Guide | MorphStrategy):
        return bool(
            re.search(r"\b(lookahead|optimise|sample|trajectory)\(", inspect.getsource(thing), re.IGNORECASE)
        )
    if inspect.isclass(thing) and issubclass(thing, Objective | Defence):
        return not inspect.isabstract(thing)
    if not inspect.isclass(thing) and not inspect.isfunction(thing):
        return False
    try:
        names = inspect.signature(thing).parameters
    except ValueError:
        return False
    return bool({"denoiser", "plan"} & set(names))


def public() -> dict[str, Any]:
    """Every public name of `guidance` and of `guidance.edit`."""
    return {name: getattr(shelf, name) for shelf in (guidance, edit) for name in shelf.__all__}


def takes_gradient(thing: Any) -> bool:
    return "gradient" in inspect.signature(thing).parameters


def forgotten(names: dict[str, Any]) -> Iterator[str]:
    """Consumers among `names` that take no gradient and give no reason, or take one and stand under no law."""
    swept = {name.partition(" with ")[0] for name in SERVES}
    for name, thing in names.items():
        if callable(thing) and (runs_a_sampler(thing) or inspect.isfunction(thing) and takes_gradient(thing)):
            if (
                takes_gradient(thing)
                and name not in swept
                or not takes_gradient(thing)
                and name not in WITHOUT
            ):
                yield name


PLAIN = Direct()
