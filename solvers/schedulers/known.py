"""The schedulers of diffusers 0.42 by name: whose convention each follows, and which are refused, with the reason."""

from typing import Any

from .conventions import (
    ConsistencyLevels,
    Convention,
    CosineKarras,
    Exploding,
    Flow,
    Interpolated,
    Karras2022,
    Midpoint,
    NextLabel,
    Quarter,
    RisingTable,
    Table,
    TrigFlow,
    TwoPredictions,
    UnitVariance,
)

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
    "PNDMScheduler": Table(),
    "SASolverScheduler": UnitVariance(),
    "SCMScheduler": TrigFlow(),
    "TCDScheduler": Table(),
    "UnCLIPScheduler": NextLabel(),
    "UniPCMultistepScheduler": UnitVariance(),
}

_DISCRETE = "which steps tokens, expected a state of real numbers; a gradient has no meaning there"
REFUSED: dict[str, str] = {
    "AmusedScheduler": _DISCRETE,
    "BlockRefinementScheduler": _DISCRETE,
    "DiscreteDDIMScheduler": _DISCRETE,
    "EntropyBoundScheduler": _DISCRETE,
    "VQDiffusionScheduler": _DISCRETE,
}

ORDERS = {"HeunDiscreteScheduler": 2, "KDPM2DiscreteScheduler": 2, "KDPM2AncestralDiscreteScheduler": 2,
          "FlowMatchHeunDiscreteScheduler": 2, "DPMSolverSDEScheduler": 2, "CogVideoXDPMScheduler": 2,
          "LMSDiscreteScheduler": 4, "PNDMScheduler": 4, "IPNDMScheduler": 4}  # fmt: skip


def named_order(s: Any) -> int:
    """The order in its name or configuration, which the shipped loop need not have."""
    return int(s.config.get("solver_order", ORDERS.get(type(s).__name__, 1)))
