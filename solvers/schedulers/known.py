"""The schedulers of diffusers 0.42 by name: whose convention each follows, and which are refused, with the reason."""

from typing import Any

from torch import Tensor

from ..kinds import described
from .angles import CosineLabels, Quarter, TrigFlow
from .convention import Convention
from .copying import copied
from .edm_levels import ConsistencyLevels, CosineKarras, Karras2022
from .flows import DataWard, Flow
from .levels import Exploding, Interpolated, Midpoint, UnitVariance
from .tables import NextLabel, RisingTable, Table, TwoPredictions

CONVENTIONS: dict[str, Convention] = {
    "CMStochasticIterativeScheduler": ConsistencyLevels(),
    "CogVideoXDDIMScheduler": Table(),
    "CogVideoXDPMScheduler": TwoPredictions(),
    "CosineDPMSolverMultistepScheduler": CosineKarras(),
    "DDIMInverseScheduler": RisingTable(),
    "DDIMParallelScheduler": Table(),
    "DDIMScheduler": Table(),
    "DDPMParallelScheduler": Table(),
    "DDPMScheduler": Table(),
    "DDPMWuerstchenScheduler": CosineLabels(),
    "DEISMultistepScheduler": UnitVariance(),
    "DPMSolverMultistepInverseScheduler": UnitVariance(),
    "DPMSolverMultistepScheduler": UnitVariance(),
    "DPMSolverSDEScheduler": Midpoint(),
    "DPMSolverSinglestepScheduler": UnitVariance(),
    "EDMDPMSolverMultistepScheduler": Karras2022(),
    "EDMEulerScheduler": Karras2022(),
    "EulerAncestralDiscreteScheduler": Exploding(),
    "EulerDiscreteScheduler": Exploding(),
    "FlowMapEulerDiscreteScheduler": Flow(),
    "FlowMatchEulerDiscreteScheduler": Flow(),
    "FlowMatchHeunDiscreteScheduler": Flow(),
    "FlowMatchLCMScheduler": Flow(),
    "HeunDiscreteScheduler": Exploding(),
    "IPNDMScheduler": Quarter(),
    "KDPM2AncestralDiscreteScheduler": Interpolated(shift=-1),
    "KDPM2DiscreteScheduler": Interpolated(),
    "LCMScheduler": Table(),
    "LMSDiscreteScheduler": Exploding(),
    "LTXEulerAncestralRFScheduler": Flow(),
    "MiniMaxH3Scheduler": DataWard(),
    "PNDMScheduler": Table(),
    "SASolverScheduler": UnitVariance(),
    "SCMScheduler": TrigFlow(),
    "TCDScheduler": Table(),
    "UnCLIPScheduler": NextLabel(),
    "UniPCMultistepScheduler": UnitVariance(),
}

_TOKENS = "which steps tokens, expected a state of real numbers; a gradient has no meaning there"
REFUSED: dict[str, str] = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "ConsistencyDecoderScheduler": "which is two turns of a decoder's own, expected a sampler; call the decoder",
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "HeliosDMDScheduler": "whose pipeline renoises between stages of growing size, expected one state; sample stage by "
    "stage",
    "HeliosScheduler": "whose stages grow the state, expected one of one size; sample stage by stage",
    "KarrasVeScheduler": "whose pipeline calls step_correct beside step, expected one step a call; EDMHeun is the same "
    "method",
    "PiflowScheduler": "whose step integrates a policy that the network returns, expected a step linear in its answer",
    "RePaintScheduler": "whose steps take a known image and a mask, expected none; guides/ condition on both",
    "RFD4ProteinaScheduler": "whose steps take a mask of residues, expected none",
    "ScoreSdeVeScheduler": "whose corrector steps by norms of the network's answer, expected numbers known beforehand; "
    "EulerMaruyama on VE() is its predictor",
    "ScoreSdeVpScheduler": "whose pipeline calls step_pred with a score that it scales itself, expected a step; "
    "EulerMaruyama on VP() is the same method",
    "VQDiffusionScheduler": _TOKENS,
}

ORDERS = {"HeunDiscreteScheduler": 2, "KDPM2DiscreteScheduler": 2, "KDPM2AncestralDiscreteScheduler": 2,
          "FlowMatchHeunDiscreteScheduler": 2, "DPMSolverSDEScheduler": 2, "CogVideoXDPMScheduler": 2,
          "LMSDiscreteScheduler": 4, "PNDMScheduler": 4, "IPNDMScheduler": 4}  # fmt: skip


def named_order(s: Any) -> int:
    """The order in its name or configuration, which the shipped loop need not have."""
    return int(s.config.get("solver_order", ORDERS.get(type(s).__name__, 1)))


def on_cpu(scheduler: Any) -> Any:
    """A copy of it, its tensors on the CPU."""
    s = copied(scheduler)
    for name, value in vars(s).items():
        if isinstance(value, Tensor):
            setattr(s, name, value.cpu())
    return s


def convention_of(scheduler: Any) -> Convention:
    """How its class goes. Raises ValueError, by its name, for one that is no plan; TypeError for no scheduler."""
    names = [base.__name__ for base in type(scheduler).__mro__]
    for name in names:
        if name in REFUSED:
            raise ValueError(f"plan_from_scheduler: got {name}, {REFUSED[name]}")
        if name in CONVENTIONS:
            return CONVENTIONS[name]
    if not hasattr(scheduler, "set_timesteps"):
        raise TypeError(
            f"scheduler: got {described(scheduler)}, expected a diffusers scheduler; pass pipe.scheduler"
        )
    raise ValueError(
        f"plan_from_scheduler: got {names[0]}, expected one of {sorted(CONVENTIONS)}, or a subclass of one; write "
        "its steps as a Method"
    )
