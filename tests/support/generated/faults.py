"""The faults that an attack from outside found and a generated case can express, by their numbers: each found again."""

import torch

from pullback.adjoint import AdjointDEIS, Checkpoint, Direct, Mechanism, Reversible, Truncated
from pullback.solvers import BDIA, DATA, NOISE, DPMSolverPP, RectifiedFlow, ReversibleHeun, SASolver, UniPC

from . import asks, containers, habits, ingredients, inputs, subject
from .cases import Case
from .reference import FlowTwice, Heun, TwoM
from .subject import ByFormula, ByNumbers, Rest, Undone

REGION = Checkpoint(mechanism=Mechanism.REGION)
NARROW = torch.float32

# fault: cases that show it, each of which must be right or a clear error
FAULTS: dict[str, tuple[Case, ...]] = {
    "3 an input depends on another, create_graph": (
        Case(ask=asks.Chained()),
        Case(cond=inputs.cond_of_the_network, ask=asks.GradOfGrad()),
        Case(cond=inputs.cond_from_the_state, ask=asks.GradOfGrad()),
        Case(cond=inputs.nested_cond, ask=asks.GradOfGrad()),
        Case(state=inputs.parameter_as_state, ask=asks.GradOfGrad()),
        Case(controls=inputs.controls_from_the_state, ask=asks.GradOfGrad()),
    ),
    "4 a hook on a parameter": (
        Case(ingredients=(habits.ParameterHook(),)),
        Case(ingredients=(habits.CapturedHook(),)),
        Case(ingredients=(habits.ParameterHook(),), strategy=Reversible(), sampler=ByNumbers(BDIA())),
    ),
    "5 a leaf reached as an input with a graph and through the network": (
        Case(guidance=subject.scale_of_the_network),
        Case(guidance=subject.scale_of_the_network, cond=inputs.shared_cond),
        Case(
            guidance=subject.scale_of_the_network,
            cond=inputs.shared_cond,
            strategy=Checkpoint(recursive=True),
        ),
    ),
    "6 a memoised embedding": (
        Case(ingredients=(habits.MemoisedTime(),)),
        Case(ingredients=(habits.MemoisedTime(),), strategy=Checkpoint(recursive=True)),
        Case(ingredients=(habits.MemoisedOnce(),)),
    ),
    "7 a leaf of late calls only": (
        Case(ingredients=(ingredients.LateLeaf(),), ask=asks.Grads()),
        Case(ingredients=(ingredients.LateLeaf(),), ask=asks.BackwardAtLast()),
        Case(
            ingredients=(ingredients.LateExpert(),), container=containers.in_a_dict, ask=asks.BackwardAtLast()
        ),
    ),
    "8 what no record knows of has changed": (
        Case(dtype=NARROW, ask=asks.Backward(asks.a_number_is_set)),
        Case(dtype=NARROW, ask=asks.Backward(asks.a_constant_is_written)),
        Case(ingredients=(habits.NumpyDropout(),), dtype=NARROW, sampler=ByFormula(Heun()), strategy=REGION),
        Case(ingredients=(habits.OwnGenerator(),), dtype=NARROW),
        Case(ingredients=(habits.CountsItsCalls(),), dtype=NARROW),
    ),
    "9 features reused between calls": (
        Case(ingredients=(habits.ReusedFeatures(),), dtype=NARROW, strategy=REGION, steps=4),
        Case(ingredients=(habits.ReusedFeatures(),), dtype=NARROW, steps=4),
    ),
    "10 features caught by a hook and used in the loss": (Case(ingredients=(habits.CaughtFeatures(),)),),
    "11 buffers written in a run of one call, or behind an object": (
        Case(ingredients=(ingredients.BatchNorm(),), steps=1),
        Case(ingredients=(ingredients.BatchNorm(),), container=containers.in_a_dict),
        Case(ingredients=(ingredients.BatchNorm(),), container=containers.in_a_namespace),
        Case(ingredients=(ingredients.SpectralNorm(),), steps=1, seed=2),
    ),
    "12 truncation cuts x off": (Case(strategy=Truncated(1)), Case(strategy=Truncated(2), ask=asks.Grads())),
    "13 a scale for each sample": (
        Case(guidance=subject.scale_per_sample, cond=inputs.shared_cond, batch=3),
        Case(guidance=subject.scale_per_sample, cond=inputs.shared_cond, batch=3, strategy=Direct()),
    ),
    "14 part of a backward pass, then other weights": (
        Case(strategy=REGION, steps=1, ask=asks.LastLayerThenAll(asks.weights_move)),
        Case(strategy=REGION, steps=1, ask=asks.LastLayerThenAll(asks.a_constant_is_written)),
    ),
    "15 torch.func through a flow": tuple(
        Case(
            strategy=Direct(),
            sampler=ByFormula(FlowTwice(), RectifiedFlow()),
            prediction=prediction,
            ask=asks.Functional(),
        )
        for prediction in (DATA, NOISE)
    ),
    "16 writing into the run": (
        Case(ingredients=(habits.WritesItsInput(),)),
        Case(ingredients=(habits.WritesItsInput(),), strategy=None, ask=asks.Value()),
        Case(ask=asks.WritingCallback()),
    ),
    "19 tensors made in inference mode": (
        Case(cond=inputs.inference_cond),
        Case(cond=inputs.inference_labels),
        Case(state=inputs.inference_state),
    ),
    "21 attention's path without grad mode": (
        Case(ingredients=(ingredients.Attention(),)),
        Case(ingredients=(ingredients.Attention(),), dtype=NARROW),
    ),
    "22 raw errors of torch": (
        Case(ingredients=(ingredients.ReentrantCheckpoint(),)),
        Case(ask=asks.Backward(asks.weights_are_frozen)),
    ),
    "23 crashes": (
        Case(batch=0),
        Case(ask=asks.Batched()),
        Case(ask=asks.Batched(), strategy=Reversible(), sampler=ByNumbers(ReversibleHeun())),
        Case(
            ingredients=(habits.ClampsItsOutput(),),
            strategy=Reversible(),
            sampler=ByNumbers(ReversibleHeun()),
        ),
    ),
    "46 messages that do not say all three things": (
        Case(ask=asks.Backward(asks.conditioning_is_written)),
        Case(ask=asks.Backward(asks.weights_move)),
        Case(cond=inputs.leaf_cond, ask=asks.Backward(asks.conditioning_is_written)),
        Case(ingredients=(ingredients.BatchNorm(),)),
        Case(ingredients=(ingredients.SpectralNorm(),)),
        Case(ingredients=(habits.WritesItsBuffer(),)),
        Case(ingredients=(ingredients.NonLeafWeight(),), strategy=Reversible(), sampler=ByNumbers(BDIA())),
        Case(ingredients=(ingredients.CapturedGraph(),), strategy=Reversible(), sampler=ByNumbers(BDIA())),
        Case(ask=asks.GradOfGrad(), strategy=AdjointDEIS(), sampler=ByFormula(TwoM())),
    ),
    "25 weights that accelerate brings for each call": (
        Case(ingredients=(ingredients.Offloaded(),)),
        Case(ingredients=(ingredients.Offloaded(),), strategy=REGION),
    ),
    "26 a corrected plan that ends at sigma = 0": (
        Case(sampler=ByNumbers(UniPC(), end=0.0)),
        Case(sampler=ByNumbers(SASolver(2, 2, tau=0.0), end=0.0)),
    ),
    "27 the rest of a split plan": (
        Case(sampler=Rest(DPMSolverPP(2))),
        Case(sampler=Rest(DPMSolverPP(3)), strategy=Truncated(1), state=inputs.constant_state),
        Case(sampler=Undone(BDIA()), strategy=Reversible()),
    ),
    # found by this sweep, on the tree where the others were mended
    "another draw of dropout where a run is made again by regions": (
        Case(ingredients=(ingredients.Dropout(),), guidance=subject.scale_of_the_network),
        Case(ingredients=(ingredients.Dropout(), ingredients.CapturedGraph())),
    ),
    "the rest of a plan without a step": (
        Case(sampler=Rest(DPMSolverPP(2)), steps=1, strategy=Checkpoint(recursive=True)),
        Case(sampler=Rest(DPMSolverPP(2)), steps=1, strategy=Checkpoint(memory_budget=2000)),
    ),
    "a memo made in one replay and used in another": (
        Case(
            ingredients=(habits.MemoisedTime(),),
            sampler=ByFormula(FlowTwice(), RectifiedFlow()),
            cond=inputs.shared_cond,
            strategy=Checkpoint(mechanism=Mechanism.TRAJECTORY),
        ),
    ),
    "features caught in a replay, in a loss": (
        Case(ingredients=(habits.CaughtFeatures(),), ask=asks.OneSampleThenAll()),
        Case(ingredients=(habits.CaughtFeatures(),), ask=asks.BackwardTwice()),
        Case(ingredients=(habits.CaughtFeatures(),), ask=asks.LastLayerThenAll()),
    ),
    "28 VJPs that nobody asked for": (Case(ingredients=(habits.WatchedVJP(),), ask=asks.GradOfOne()),),
}

# what is not mended yet
OPEN: frozenset[str] = frozenset(
    {
        # torch's own error, raised in the caller's loss: the hook caught what a replay computed, whose graph is gone
        "features caught in a replay, in a loss"
    }
)


def covers(fault: str, case: Case) -> bool:
    """Whether a case has all that is out of the ordinary in one of a fault's cases."""
    return any(shown.features and shown.features <= case.features for shown in FAULTS[fault])
