"""The rows of peers_can.py: what a user wants, who can do it, by which evidence, and the page of ours that shows it."""

from typing import Any, NamedTuple

# a distribution, and the package that it installs
PEERS = {
    "torchdiffeq": "torchdiffeq",
    "torchsde": "torchsde",
    "diffrax": "diffrax",
    "diffusers": "diffusers",
    "trl": "trl",
    "deepinv": "deepinv",
}


class Cell(NamedTuple):
    verdict: str
    evidence: tuple[str, ...] = ()


class Row(NamedTuple):
    """`shown` links to a page and names what shows it; "–": Flow-Factory's README does not say."""

    ours: str
    cells: dict[str, Cell]
    flow_factory: str
    shown: str


def row(ours: str, *cells: Cell, flow_factory: str, shown: str, absent: str = "") -> Row:
    """`absent` is the pattern that stands nowhere in the code of those who say no and give no evidence."""
    given = [cell if cell.evidence else Cell(cell.verdict, ("!" + absent,)) for cell in cells]
    assert all(cell.evidence != ("!",) for cell in given), shown
    return Row(ours, dict(zip(PEERS, given, strict=True)), flow_factory, shown)


def yes(*evidence: str) -> Cell:
    return Cell("yes", evidence)


def partly(*evidence: str) -> Cell:
    return Cell("partly", evidence)


def no(*evidence: str) -> Cell:
    return Cell("no", evidence)


PIPELINE = "no_grad:diffusers:StableDiffusionPipeline.__call__"
NO_DIFFUSION = "!import diffusers|from diffusers"
SOLVER = "no_grad:deepinv.sampling.sde_solver:BaseSDESolver.sample"

ROWS = {
    "exact gradient of a run at the memory of states": row(
        "yes",
        no("faults:backsolve_on_a_diffusion", "torchdiffeq:odeint"),
        partly("faults:reversible_heun_by_tenths"),
        yes("diffrax:RecursiveCheckpointAdjoint"),
        no(PIPELINE),
        no(NO_DIFFUSION),
        no(SOLVER),
        flow_factory="–",
        shown="[`Checkpoint()`](gradients.md#how-checkpoint-works), `python examples/gradients.py`",
    ),
    "the same at memory that does not grow with steps": row(
        "yes",
        no("!(?i)reversible"),
        partly("faults:reversible_heun_by_sixteenths"),
        partly("diffrax:ReversibleHeun", "!ReversibleAdjoint"),
        no(PIPELINE),
        no(NO_DIFFUSION),
        no(SOLVER),
        flow_factory="–",
        shown="[`Reversible()`](reversible.md), `python benchmarks/memory.py`",
    ),
    "continuous adjoint": row(
        "yes",
        yes("torchdiffeq:odeint_adjoint"),
        yes("torchsde:sdeint_adjoint"),
        yes("diffrax:BacksolveAdjoint"),
        no(PIPELINE),
        no(NO_DIFFUSION),
        no(SOLVER),
        flow_factory="–",
        shown="[`Continuous`, `AdjointDEIS`](continuous.md), `python benchmarks/gradients.py`",
    ),
    "gradients of gradients": row(
        "yes",
        partly("faults:gradient_penalty", "torchdiffeq:odeint"),
        partly("torchsde:sdeint_adjoint"),
        partly("diffrax:DirectAdjoint"),
        no(PIPELINE),
        no(NO_DIFFUSION),
        no(SOLVER),
        flow_factory="–",
        shown="[second order](second-order.md)",
    ),
    "an SDE of one's own": row(
        "partly: diagonal noise",
        no("!(?i)brownian"),
        yes("torchsde:sdeint"),
        yes("diffrax:ControlTerm", "diffrax:VirtualBrownianTree"),
        no(),
        no(NO_DIFFUSION),
        partly("deepinv.sampling:BaseSDE"),
        flow_factory="–",
        shown="[an equation of your own](equations.md#an-equation-of-your-own)",
        absent="def drift|def diffusion[(]",
    ),
    "gradient at the injected noise": row(
        "yes",
        no("!(?i)brownian"),
        partly("torchsde:BaseBrownian"),
        partly("diffrax:AbstractPath"),
        partly("diffusers:DDIMScheduler.step"),
        no(NO_DIFFUSION),
        no(SOLVER),
        flow_factory="–",
        shown="[`dno`](guidance.md#optimising-what-enters), [noise](noise.md)",
    ),
    "adaptive steps": row(
        "partly: a diffusion's flow and SDE",
        yes("torchdiffeq:odeint"),
        yes("torchsde._core.adaptive_stepping:update_step_size"),
        yes("diffrax:PIDController"),
        no("!(?i)rtol"),
        no(NO_DIFFUSION),
        no("!(?i)adaptive step"),
        flow_factory="–",
        shown="[`adapt`](adaptive.md)",
    ),
    "events, stiff and implicit solvers": row(
        "no",
        partly("torchdiffeq:odeint_event"),
        no("!class Implicit"),
        yes("diffrax:Event", "diffrax:Kvaerno5"),
        no(),
        no(NO_DIFFUSION),
        no(),
        flow_factory="–",
        shown="[stay with them](porting/diffrax.md#not-covered-stay-with-diffrax)",
        absent="odeint_event|(?<![a-z])stiff|ImplicitEuler",
    ),
    "DPM-Solver++, DEIS, UniPC ... by name": row(
        "yes",
        no("!(?i)dpm"),
        no("!(?i)dpm"),
        no("!(?i)dpm"),
        yes("diffusers:UniPCMultistepScheduler"),
        no("!(?i)dpm.?solver"),
        no("!class DPMSolver"),
        flow_factory="partly",
        shown="[methods](methods.md), `python examples/sample.py`",
    ),
    "a sample is the same alone and in any batch": row(
        "yes",
        partly("torchdiffeq:odeint"),
        no("torchsde:BrownianInterval"),
        yes("diffrax:diffeqsolve"),
        partly("diffusers.utils.torch_utils:randn_tensor"),
        no(NO_DIFFUSION),
        no("deepinv.sampling.sde_solver:BaseSDESolver.randn_like"),
        flow_factory="–",
        shown="[noise by address](noise.md#where-noise-comes-from)",
    ),
    "a diffusers pipeline in one line": row(
        "yes, differentiable",
        no(NO_DIFFUSION),
        no(NO_DIFFUSION),
        no(NO_DIFFUSION),
        yes("diffusers:DiffusionPipeline.from_pretrained"),
        no(NO_DIFFUSION),
        partly("deepinv.models:DiffusersDenoiserWrapper"),
        flow_factory="partly: its models",
        shown="[`from_diffusers`](pipelines.md), `python examples/diffusers_optimise.py`",
    ),
    "pretrained models and their weights": row(
        "no",
        no(),
        no(),
        no(),
        yes("diffusers:DiffusionPipeline.from_pretrained"),
        no(NO_DIFFUSION),
        yes("deepinv.models:DRUNet"),
        flow_factory="partly: diffusers'",
        shown="[theirs](pipelines.md)",
        absent="from_pretrained",
    ),
    "fine-tuning a sampler to a reward": row(
        "yes",
        no(),
        no(),
        no(),
        no("!DDPO|ReFL|AlignProp"),
        no("!DDPO|AlignProp"),
        no("!(?i)reward"),
        flow_factory="yes",
        shown="[fine-tuning](finetune.md), `python examples/finetune.py`",
        absent="(?i)reward",
    ),
    "the same by the gradient of the reward": row(
        "yes",
        no(),
        no(),
        no(),
        no("!DDPO|ReFL|AlignProp"),
        no("!DDPO|AlignProp"),
        no("!(?i)reward"),
        flow_factory="no",
        shown="[`DRaFT`, `AdjointMatching`](finetune.md#choosing-an-objective), `python examples/tilted_mixture.py`",
        absent="(?i)reward",
    ),
    "posterior sampling for inverse problems": row(
        "yes",
        no(),
        no(),
        no(),
        no("!DPSPipeline|posterior sampling of inverse"),
        no(),
        yes("deepinv.sampling:DPS", "deepinv.sampling:PosteriorDiffusion"),
        flow_factory="–",
        shown="[guidance](guidance.md), [against exact posteriors](inverse.md), `python examples/restore_faces.py`",
        absent="(?i)inverse problem|posterior sampl",
    ),
    "physics: tomography, MRI, microscopy ...": row(
        "theirs, as they are",
        no(),
        no(),
        no(),
        no(),
        no(),
        yes("deepinv.physics:Tomography", "deepinv.physics:MRI"),
        flow_factory="–",
        shown="[from deepinv](porting/deepinv.md)",
        absent="(?i)tomograph|microscop",
    ),
    "particles with right weights": row(
        "yes",
        no(),
        no(),
        no(),
        no("!(?i)particle filter|resampling weights"),
        no(),
        no("!(?i)sequential monte"),
        flow_factory="–",
        shown="[`smc`](guidance.md#particles)",
        absent="(?i)particle|sequential monte",
    ),
    "inverting and editing an image": row(
        "yes",
        no(),
        no(),
        no(),
        yes("diffusers:LEditsPPPipelineStableDiffusion", "diffusers:DDIMInverseScheduler"),
        no(),
        no(),
        flow_factory="–",
        shown="[editing](editing.md), `python examples/edit_digits.py`",
        absent="(?i)ddim inversion|edit an image|LEdits",
    ),
    "log-likelihood of a sample": row(
        "yes",
        no("!(?i)divergence"),
        no(),
        no("!(?i)divergence of"),
        no("!(?i)bits per dim"),
        no(),
        no("!(?i)bits per dim"),
        flow_factory="–",
        shown="[densities](density.md)",
        absent="(?i)bits per dim|exact likelihood|divergence of the flow",
    ),
    "the whole loop in one compiled graph": row(
        "yes, fixed steps",
        no("breaks:ode"),
        no("breaks:sde"),
        yes("diffrax:diffeqsolve"),
        no("breaks:scheduler"),
        no(NO_DIFFUSION),
        no(SOLVER),
        flow_factory="–",
        shown="[one graph](gradients.md#one-graph)",
    ),
    "many devices": row(
        "partly: DDP and FSDP of the network",
        no("!torch[.]distributed"),
        no("!torch[.]distributed"),
        yes("jax:device_put"),
        yes("diffusers.models.modeling_utils:ModelMixin.enable_parallelism"),
        yes("trl:ModelConfig"),
        partly("deepinv.distributed:DistributedContext"),
        flow_factory="yes",
        shown="[wrapped networks](gradients.md#wrapped-networks), [its trainer](reward.md)",
    ),
}


def table(found: dict[str, Any]) -> str:
    """Of docs/peers.md, from peers_can.json."""
    heads = [f"{peer} {row['version']}" + " / Flow-Factory" * (peer == "trl") for peer, row in found.items()]
    lines = [f"| | pullback | {' | '.join(heads)} | here |", "|---" * (len(found) + 3) + "|"]
    for what, row in ROWS.items():
        theirs = {peer: found[peer]["cells"][what]["verdict"] for peer in found}
        theirs["trl"] += f" / {row.flow_factory}"
        lines.append(f"| {what} | {row.ours} | {' | '.join(theirs.values())} | {row.shown} |")
    return "\n".join(lines)
