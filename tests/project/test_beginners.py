"""What newcomers get wrong: every mistake ends in an error or a warning that says got, expected and what to change,
and those that no call can see are seen by `check`.
"""

import re
from collections.abc import Mapping

import pytest
import torch
from mistakes import said
from torch import nn

from pullback.adjoint import sample
from pullback.solvers import (
    DATA,
    NOISE,
    VP,
    Denoiser,
    DPMSolverPP,
    Mixture,
    Scaled,
    UniformLambda,
    V,
    check,
    convert,
)

# name: (what is written after `mistakes.SETUP`, the message to the letter)
MISTAKES: Mapping[str, tuple[str, str]] = {
    "class of a process": (
        "Denoiser(net, VP, V)",
        "TypeError: process: got the class VP, expected an instance of it; write VP()",
    ),
    "prediction as a string": (
        'Denoiser(net, process, "v")',
        (
            "TypeError: prediction: got 'v', expected one of NOISE, DATA, V, FLOW, SCORE; import it from "
            "pullback.solvers"
        ),
    ),
    "class of a network": (
        "Denoiser(Network, process, V)",
        "TypeError: network: got the class Network, expected an instance of it; write Network()",
    ),
    "arguments in another order": (
        "Denoiser(process, net, V)",
        (
            "TypeError: process: got a Network, expected a Process such as VP() or RectifiedFlow(); pass the "
            "one that the network was trained on"
        ),
    ),
    "label as a number": (
        "Denoiser(net, process, V, label=999)",
        (
            "TypeError: label: got 999, expected a function or module; pass label(t, process) such as "
            "Scaled(999)"
        ),
    ),
    "class of a call": (
        "Denoiser(net, process, V, call=Keywords)",
        "TypeError: call: got the class Keywords, expected an instance of it; write Keywords()",
    ),
    "network without return": (
        "sample(Denoiser(lambda x, t: None, process, V), plan, x)",
        (
            "TypeError: network output: got None, expected a tensor, an object with `.sample`, a tuple or "
            "list that begins with a tensor, or a dict of one tensor; pick it yourself: Denoiser(..., "
            "call=lambda network, x, t, cond: network(x, t)[...])"
        ),
    ),
    "dict of two tensors": (
        'sample(Denoiser(lambda x, t: {"a": x, "b": x}, process, V), plan, x)',
        (
            "TypeError: network output: got a dict with ['a', 'b'], expected a tensor, an object with "
            "`.sample`, a tuple or list that begins with a tensor, or a dict of one tensor; pick it "
            "yourself: Denoiser(..., call=lambda network, x, t, cond: network(x, t)[...])"
        ),
    ),
    "learned variances": (
        "sample(Denoiser(lambda x, t: torch.cat([x, x], 1), process, V), plan, x)",
        (
            "ValueError: network output: got shape (4, 4), expected the state's (4, 2); it has learned "
            "variances behind it: pass Denoiser(..., call=FirstChannels())"
        ),
    ),
    "output of another shape": (
        "sample(Denoiser(lambda x, t: x.sum(1), process, V), plan, x)",
        (
            "ValueError: network output: got shape (4,), expected the state's (4, 2); reshape it inside the "
            "network, or pass call=lambda network, x, t, cond: ... that does"
        ),
    ),
    "betas for alphas_cumprod": (
        "DiscreteVP(torch.linspace(1e-4, 0.02, 1000))",
        (
            "ValueError: alphas_cumprod: got shape (1000,) with 0.0001 at 0 and 0.00011992 at 1, expected a strictly "
            "decreasing vector in [0, 1); "
            "pass the scheduler's alphas_cumprod, not its betas"
        ),
    ),
    "guidance of a network": (
        "ClassifierFree(net, 4.0)",
        (
            "TypeError: denoiser: got a Network, expected a Denoiser; wrap the network: Denoiser(network, "
            "process, prediction)"
        ),
    ),
    "guidance scale as a list": (
        "ClassifierFree(conditional, [4.0, 5.0])",
        (
            "TypeError: scale: got a list, expected a number or a tensor () or (B,); pass 4.0, or "
            "cond=Guided(cond, PerStep(scales)) for one a step"
        ),
    ),
    "guidance scales of another batch": (
        (
            "sample(ClassifierFree(conditional, torch.ones(3), torch.zeros(2)), plan, x, cond=torch.zeros(4, "
            "2))"
        ),
        (
            "ValueError: scale: got shape (3,), expected () or (4,), one for each sample; for one a step "
            "pass cond=Guided(cond, PerStep(scales))"
        ),
    ),
    "guidance in one call without null": (
        "sample(ClassifierFree(conditional, 4.0, passes=Passes.ONE), plan, x, cond=torch.zeros(4, 2))",
        (
            "ValueError: Passes.ONE: got null None beside cond a tensor (4, 2) of torch.float32, expected "
            "two tensors with a batch of 4; give null=, expand cond to the batch, or use Passes.TWO"
        ),
    ),
    "plan of a denoiser": (
        "DPMSolverPP(2).plan(denoiser, grid)",
        "TypeError: process: got a Denoiser, expected a Process such as VP(); pass denoiser.process",
    ),
    "class of a process in plan": (
        "DPMSolverPP(2).plan(VP, grid)",
        "TypeError: process: got the class VP, expected an instance of it; write VP()",
    ),
    "class of a grid": (
        "DPMSolverPP(2).plan(process, UniformLambda)",
        (
            "TypeError: grid: got the class UniformLambda, expected an instance of it; write "
            "UniformLambda(...)"
        ),
    ),
    "number of steps as a grid": (
        "DPMSolverPP(2).plan(process, 20)",
        (
            "TypeError: grid: got 20, expected a Grid or a sequence of times; write UniformLambda(20, "
            "start=1.0, end=0.03)"
        ),
    ),
    "name of a grid": (
        'DPMSolverPP(2).plan(process, "karras")',
        (
            "TypeError: grid: got 'karras', expected a Grid or a sequence of times; write UniformLambda(20, "
            "start=1.0, end=0.03)"
        ),
    ),
    "process and grid swapped": (
        "DPMSolverPP(2).plan(grid, process)",
        ("TypeError: process: got a UniformLambda, expected a Process such as VP(); pass denoiser.process"),
    ),
    "times as a grid's steps": (
        "UniformT([1.0, 0.5, 0.0])",
        ("TypeError: n: got a list, expected a whole number of steps; times themselves go into GivenTimes"),
    ),
    "order that does not exist": (
        "DPMSolverPP(4)",
        "ValueError: DPMSolverPP: got order=4, expected 1, 2 or 3; DEIS(4) is of order 4",
    ),
    "name of an order": (
        'DPMSolverPP("2M")',
        "ValueError: DPMSolverPP: got order='2M', expected 1, 2 or 3; DEIS(4) is of order 4",
    ),
    "times outside of the process": (
        "DPMSolverPP(2).plan(process, UniformT(10, start=999.0))",
        (
            "ValueError: grid: got times in [0, 999], expected inside [0, 1] of VP(beta_min=0.1, "
            "beta_max=20.0, t_min=0.0, t_max=1.0); move the grid or widen the process"
        ),
    ),
    "grid without an end": (
        "DPMSolverPP(2).plan(process, UniformLambda(10))",
        (
            "ValueError: UniformLambda: got lambda -5.025 to inf, expected finite ends; pass start= and end= "
            "inside the process, or use UniformT"
        ),
    ),
    "name of the seed": (
        'sample(denoiser, noisy, x, noise="0")',
        (
            "TypeError: noise: got '0', expected a source of noise or a tensor (slots, B, ...); pass "
            "noise=Addressed(0)"
        ),
    ),
    "labels on a process that has none": (
        "DDIM().plan(process, Trailing(10))",
        (
            "ValueError: Trailing: got n=10 on VP(beta_min=0.1, beta_max=20.0, t_min=0.0, t_max=1.0), "
            "expected 1 to T steps on a DiscreteVP of T; take UniformT or UniformLambda on another process"
        ),
    ),
    "times of [0, 1] on a table": (
        "DPMSolverPP(2).plan(table, UniformLambda(20, start=1.0, end=0.03))",
        (
            "UserWarning: grid: got times 1 to 0.03 on DiscreteVP(1000 steps), expected indices into its "
            "table, 999 (noise) to 0 (data): these two levels are all but clean data; write UniformLambda(n, "
            "start=999.0, end=0.0), or Trailing(n)"
        ),
    ),
    "reversed grid": (
        "DDIM().plan(process, UniformT(10, start=0.01, end=1.0))",
        (
            "UserWarning: grid: got times 0.01 to 1, which rise from data to noise, expected falling ones to "
            "sample; swap start and end, or write Rising(grid) where data is to be encoded"
        ),
    ),
    "reversed times": (
        "DDIM().plan(process, torch.linspace(0.01, 1, 11))",
        (
            "UserWarning: grid: got times 0.01 to 1, which rise from data to noise, expected falling ones to "
            "sample; swap start and end, or write Rising(grid) where data is to be encoded"
        ),
    ),
    "grid next to the data": (
        "DDIM().plan(process, UniformT(10, start=0.03))",
        (
            "UserWarning: grid: got times 0.03 to 0 on VP(beta_min=0.1, beta_max=20.0, t_min=0.0, "
            "t_max=1.0), where noise is 0.11 of the data already at the start, expected a start near noise, "
            "at t=1; leave start out for the whole way, or take a larger one"
        ),
    ),
    "network for a denoiser": (
        "sample(net, plan, x)",
        (
            "TypeError: denoiser: got a Network, expected a Denoiser; wrap the network: Denoiser(network, "
            "process, prediction)"
        ),
    ),
    "method for a plan": (
        "sample(denoiser, DPMSolverPP(2), x)",
        (
            "TypeError: plan: got a DPMSolverPP, expected a Plan; compile one: "
            "DPMSolverPP(2).plan(denoiser.process, grid)"
        ),
    ),
    "class of a method for a plan": (
        "sample(denoiser, DPMSolverPP, x)",
        (
            "TypeError: plan: got the class DPMSolverPP, expected a Plan; compile one: "
            "DPMSolverPP(2).plan(denoiser.process, grid)"
        ),
    ),
    "method's method for a plan": (
        "sample(denoiser, DPMSolverPP(2).plan, x)",
        (
            "TypeError: plan: got the method Method.plan, expected a Plan; compile one: "
            "DPMSolverPP(2).plan(denoiser.process, grid)"
        ),
    ),
    "grid for a plan": (
        "sample(denoiser, grid, x)",
        (
            "TypeError: plan: got a UniformLambda, expected a Plan; compile one: "
            "DPMSolverPP(2).plan(denoiser.process, grid)"
        ),
    ),
    "plan of another process": (
        "sample(Denoiser(net, RectifiedFlow(), FLOW), plan, x)",
        (
            "ValueError: process: got a plan for VP(beta_min=0.1, beta_max=20.0, t_min=0.0, t_max=1.0), "
            "expected the denoiser's RectifiedFlow(t_min=0.0, t_max=1.0); compile the plan with "
            "denoiser.process"
        ),
    ),
    "x as a shape": (
        "sample(denoiser, plan, (4, 2))",
        (
            "TypeError: x: got a tuple, expected a tensor (B, ...); torch.as_tensor(...) makes one of an "
            "array or a list of numbers"
        ),
    ),
    "x as a list": (
        "sample(denoiser, plan, [[0.1, 0.2]])",
        (
            "TypeError: x: got a list, expected a tensor (B, ...); torch.as_tensor(...) makes one of an "
            "array or a list of numbers"
        ),
    ),
    "x as an array": (
        "sample(denoiser, plan, np.zeros((4, 2)))",
        (
            "TypeError: x: got a numpy array, expected a tensor (B, ...); torch.as_tensor(...) makes one of "
            "an array or a list of numbers"
        ),
    ),
    "x of integers": (
        "sample(denoiser, plan, torch.zeros(4, 2, dtype=torch.uint8))",
        (
            "ValueError: x: got shape (4, 2) of torch.uint8, expected a floating point (B, ...) state with a "
            "batch axis; pass x.float(), scaled to the range of the data"
        ),
    ),
    "x without batch axis": (
        "sample(denoiser, plan, x[0])",
        (
            "ValueError: x: got shape (2,) of torch.float32, expected a floating point (B, ...) state with a "
            "batch axis; pass x[None]"
        ),
    ),
    "image without batch axis": (
        "sample(Denoiser(lambda x, t: x[None], process, V), plan, torch.zeros(1, 8, 8))",
        (
            "ValueError: network output: got shape (1, 1, 8, 8), expected the state's (1, 8, 8); x has no "
            "batch axis: pass x[None]"
        ),
    ),
    "float64 x into a float32 network": (
        "sample(denoiser, plan, x.double())",
        (
            "ValueError: x: got torch.float64, expected torch.float32, that of the network's parameters; "
            "pass x.to(torch.float32)"
        ),
    ),
    "float32 x into a bf16 network": (
        "sample(Denoiser(Network().bfloat16(), process, V), plan, x)",
        (
            "ValueError: x: got torch.float32, expected torch.bfloat16, that of the network's parameters; "
            "write Denoiser(..., dtype=torch.bfloat16)"
        ),
    ),
    "noise as a number": (
        "sample(denoiser, noisy, x, noise=0)",
        (
            "TypeError: noise: got 0, expected a source of noise or a tensor (slots, B, ...); pass "
            "noise=Addressed(0)"
        ),
    ),
    "noise as a generator": (
        "sample(denoiser, noisy, x, noise=torch.Generator().manual_seed(7))",
        (
            "TypeError: noise: got a Generator, expected a source of noise or a tensor (slots, B, ...); pass "
            "noise=Addressed(7)"
        ),
    ),
    "class of noise": (
        "sample(denoiser, noisy, x, noise=Addressed)",
        "TypeError: noise: got the class Addressed, expected an instance of it; write Addressed(...)",
    ),
    "no noise": (
        "sample(denoiser, noisy, x)",
        (
            "ValueError: noise: got None, expected a source with 4 slots for DDPM(variance=SMALL); pass "
            "noise=Addressed(seed), or a tensor (slots, B, ...)"
        ),
    ),
    "noise of another shape": (
        "sample(denoiser, noisy, x, noise=torch.zeros(4, 2))",
        (
            "ValueError: noise: got a tensor of shape (4, 2), expected (4, 4, 2): (slots, B, ...); draw one "
            "x for each of the plan's slots"
        ),
    ),
    "noise for nothing": (
        "sample(denoiser, plan, x, noise=Addressed(0))",
        (
            "UserWarning: noise: got an Addressed for DPMSolverPP(order=2, exact=False, starter=False, "
            "cap=2.5), which draws none, expected noise=None; leave it out, or take a stochastic method such "
            "as DDPM()"
        ),
    ),
    "gradient as a string": (
        'sample(denoiser, plan, leaf, gradient="checkpoint")',
        (
            "TypeError: gradient: got 'checkpoint', expected a strategy such as Checkpoint() or Direct(), or "
            "None to sample only; pass the object, not its name"
        ),
    ),
    "class of a gradient": (
        "sample(denoiser, plan, leaf, gradient=Checkpoint)",
        "TypeError: gradient: got the class Checkpoint, expected an instance of it; write Checkpoint()",
    ),
    "gradient as a flag": (
        "sample(denoiser, plan, leaf, gradient=True)",
        (
            "TypeError: gradient: got True, expected a strategy such as Checkpoint() or Direct(), or None to "
            "sample only; pass the object, not its name"
        ),
    ),
    "gradient under no_grad": (
        "with torch.no_grad(): sample(denoiser, plan, leaf, gradient=Checkpoint())",
        (
            "ValueError: gradient=Checkpoint(offload=False, mechanism=<Mechanism.AUTO: 'auto'>, "
            "memory_budget=None, recursive=False, observe=None): got a call under torch.no_grad() or "
            "inference_mode(), expected grad mode on; call outside of it, or pass gradient=None to sample only"
        ),
    ),
    "nothing requires grad": (
        "sample(Denoiser(net.requires_grad_(False), process, V), plan, x, gradient=Checkpoint())",
        (
            "ValueError: gradient=Checkpoint(offload=False, mechanism=<Mechanism.AUTO: 'auto'>, "
            "memory_budget=None, recursive=False, observe=None): got inputs and parameters none of which "
            "requires grad, expected at least one; call requires_grad_() on what you optimise, or pass "
            "gradient=None to sample only"
        ),
    ),
    "reversible gradient of another plan": (
        "sample(denoiser, plan, leaf, gradient=Reversible())",
        (
            "ValueError: DPMSolverPP(order=2, exact=False, starter=False, cap=2.5): instruction 7 cannot be "
            "undone: got unknown registers ['x', 'D3', 'D2'], expected at most 1; use a reversible method "
            "(ReversibleHeun, OBELM, BDIA, EDICT, Coupled, Rex) or Checkpoint()"
        ),
    ),
    "cond as a list of numbers": (
        "sample(conditional, plan, x, cond=[3, 3, 7, 7])",
        "ValueError: cond: got a list of numbers, expected a tensor; pass torch.tensor([3, 3, 7, 7])",
    ),
    "cond of another batch": (
        "sample(conditional, plan, x, cond=torch.zeros(3, 2))",
        (
            "ValueError: cond[0]: got shape (3, 2), expected a first axis of 4, the batch of x, or one that "
            "broadcasts; pass one conditioning for each sample, or a single one for all"
        ),
    ),
    "dict without Keywords": (
        'sample(Denoiser(Named(), process, V), plan, x, cond={"text": torch.zeros(4, 2)})',
        (
            "ValueError: cond: got a dict with ['text'], which the network was given as its third argument, "
            "expected what it takes there; pass Denoiser(..., call=Keywords()) where these are names of its "
            "arguments"
        ),
    ),
    "Keywords without a dict": (
        "sample(Denoiser(Named(), process, V, call=Keywords()), plan, x, cond=torch.zeros(4, 2))",
        (
            "TypeError: cond: got a tensor (4, 2) of torch.float32, expected a dict of the network's keyword "
            'arguments for call=Keywords(); pass cond={"encoder_hidden_states": ...}, or leave call= out'
        ),
    ),
    "cond for a network without": (
        "sample(denoiser, plan, x, cond=torch.zeros(4, 2))",
        (
            "ValueError: cond: got a tensor (4, 2) of torch.float32 for a network that takes (x, t) (too "
            "many positional arguments), expected one that takes (x, t, cond); leave cond out, or pass "
            "call=Keywords() where it takes conditioning by name"
        ),
    ),
    "no cond for a network with": (
        "sample(conditional, plan, x)",
        (
            "ValueError: cond: got None for a network that takes (x, t, cond) (missing a required argument: "
            "'cond'), expected what it needs besides x and t; pass cond=, or call=lambda network, x, t, "
            "cond: ... that fills it in"
        ),
    ),
    "labels as floats": (
        "sample(Denoiser(Labelled(), process, V), plan, x, cond=torch.tensor([3.0, 3.0, 7.0, 7.0]))",
        (
            "ValueError: t or cond: got torch.float32 where the network looks labels up in a table, expected "
            "whole numbers; pass integer labels as cond, or Denoiser(..., label=WholeLabels()) and a grid of "
            "whole times"
        ),
    ),
    "t looked up in a table": (
        "sample(Denoiser(Timed(), table, NOISE), DDIM().plan(table, Trailing(4)), x)",
        (
            "ValueError: t: got torch.float32 where the network looks labels up in a table, expected whole "
            "numbers; pass Denoiser(..., label=WholeLabels()) and a grid of whole times"
        ),
    ),
    "times between whole labels": (
        (
            "sample(Denoiser(Timed(), table, NOISE, label=WholeLabels()), DDIM().plan(table, UniformT(4, "
            "start=999.0, end=0.5)), x)"
        ),
        (
            "ValueError: WholeLabels: got label 749.375 at t=749.375, expected whole labels at every network "
            "call; take a grid of them (Trailing, Leading, Linspace) and a method without stages between "
            "nodes"
        ),
    ),
    "PerStep of a list": (
        "sample(conditional, plan, x, cond=PerStep([x, x, x, x]))",
        (
            "TypeError: PerStep: got a list, expected a tensor (N, ...); torch.stack(values) makes one of a "
            "list"
        ),
    ),
    "PerStep of another length": (
        "sample(conditional, plan, x, cond=PerStep(torch.zeros(3, 4, 2)))",
        (
            "ValueError: cond: got PerStep with 3 values, expected 4, one for each step of the plan; its "
            "values are (N, ...)"
        ),
    ),
    "controls without steps": (
        "sample(denoiser, plan, x, controls=torch.zeros(4, 2))",
        (
            "ValueError: controls: got shape (4, 2), expected (4, 4, 2): one per step; "
            "torch.zeros(plan.steps, *x.shape) is the neutral one"
        ),
    ),
    "controls as a list": (
        "sample(denoiser, plan, x, controls=[0.0, 0.0])",
        (
            "TypeError: controls: got a list, expected a tensor; torch.as_tensor(...) makes one of an array "
            "or a list of numbers"
        ),
    ),
    "callback that is none": (
        "sample(denoiser, plan, x, callback=5)",
        ("TypeError: callback: got 5, expected a function of (step, time, state); pass a callable or None"),
    ),
    "one node as a number": (
        "trajectory(denoiser, plan, x, 2)",
        "TypeError: at: got 2, expected a list of nodes; pass at=[0, 5]",
    ),
    "node past the end": (
        "trajectory(denoiser, plan, x, [5])",
        "ValueError: at: got [5], expected nodes between 0 and 4; 0 is x itself, 4 the sample",
    ),
    "truncated to nothing": (
        "Truncated(0)",
        (
            "ValueError: Truncated: got last=0, expected at least 1 step; gradient=None samples without "
            "gradients"
        ),
    ),
    "seed that is none": (
        'Addressed("seed")',
        "TypeError: seed: got 'seed', expected a whole number; pass Addressed(0)",
    ),
    "negative seed": (
        "Addressed(-1)",
        "ValueError: Addressed: got seed=-1, expected 0 <= seed < 2^128; pass Addressed(0)",
    ),
    "strategies as a list": (
        "audit(denoiser, plan, leaf, loss, [Checkpoint()])",
        (
            "TypeError: strategies: got a list, expected a dict from names to strategies; write "
            '{"checkpoint": Checkpoint(), ...}'
        ),
    ),
    "class among the strategies": (
        'audit(denoiser, plan, leaf, loss, {"checkpoint": Checkpoint})',
        ("TypeError: strategies: got the class Checkpoint, expected an instance of it; write Checkpoint()"),
    ),
    "check of a network": (
        "check(net, x)",
        (
            "TypeError: denoiser: got a Network, expected a Denoiser; wrap the network: Denoiser(network, "
            "process, prediction)"
        ),
    ),
    "check without a batch": (
        "check(denoiser, x[0])",
        (
            "ValueError: x0: got shape (2,) of torch.float32, expected floating point data (B, ...) of at "
            "least two samples; scale images to the range that the network was trained on"
        ),
    ),
    "check of integers": (
        "check(denoiser, torch.zeros(4, 2, dtype=torch.uint8))",
        (
            "ValueError: x0: got shape (4, 2) of torch.uint8, expected floating point data (B, ...) of at "
            "least two samples; scale images to the range that the network was trained on"
        ),
    ),
    "lambda for a guide": (
        "steer(denoiser, plan, x, lambda x: x)",
        (
            "TypeError: guide: got a lambda, expected a guide; a loss goes into one: DPS(loss), LGD(loss) or "
            "Lookahead(loss)"
        ),
    ),
    "class of a guide": (
        "steer(denoiser, plan, x, DPS)",
        "TypeError: guide: got the class DPS, expected an instance of it; write DPS(...)",
    ),
    "operator for a measurement": (
        "steer(denoiser, plan, x, TMPD(Mask(torch.tensor([True, False]))))",
        (
            "TypeError: TMPD.measurement: got a Mask, expected a Measurement; write "
            "TMPD(Measurement(Mask(keep), y, noise_std=0.05))"
        ),
    ),
    "class of an operator for a measurement": (
        "steer(denoiser, plan, x, TMPD(Mask))",
        (
            "TypeError: TMPD.measurement: got the class Mask, expected a Measurement; write "
            "TMPD(Measurement(Mask(keep), y, noise_std=0.05))"
        ),
    ),
    "number for a loss": (
        "steer(denoiser, plan, x, DPS(3.0))",
        (
            "TypeError: DPS.loss: got 3.0, expected a function of the data prediction (B, ...) to (B,); pass "
            "a Measurement, or lambda x: ..."
        ),
    ),
    "measurement of a class": (
        "Measurement(Mask, torch.zeros(1, 2), 0.1)",
        "TypeError: physics: got the class Mask, expected an instance of it; write Mask(...)",
    ),
    "measurement as a list": (
        "Measurement(Mask(torch.tensor([True, False])), [0.0, 0.0], 0.1)",
        (
            "TypeError: y: got a list, expected a tensor (B, ...) or (1, ...); torch.as_tensor(...)[None] "
            "makes one"
        ),
    ),
    "over as a string": (
        'optimise(denoiser, plan, loss, x, over="x", **quiet)',
        "TypeError: over: got 'x', expected Over(...); name what to optimise: Over(x=True, cond=True)",
    ),
    "class of over": (
        "optimise(denoiser, plan, loss, x, over=Over, **quiet)",
        "TypeError: over: got the class Over, expected an instance of it; write Over()",
    ),
    "over nothing": (
        "optimise(denoiser, plan, loss, x, over=Over(x=False), **quiet)",
        (
            "ValueError: optimise: got Over(x=False, noise=False, cond=False, cond_rows=False, controls=False, "
            "parameters=False) and nothing to change, expected at least one variable; turn one on in "
            "over=Over(...) and pass what it names"
        ),
    ),
    "over labels": (
        (
            "optimise(Denoiser(Labelled(), process, V), plan, loss, x, cond=torch.tensor([3, 3, 7, 7]), "
            "over=Over(cond=True), **quiet)"
        ),
        (
            "ValueError: optimise over cond: got tensors of ['torch.int64'], expected floating point "
            "conditioning; pass the embedding of a label instead of the label, or over=Over(cond=False)"
        ),
    ),
    "over cond that is not there": (
        "optimise(denoiser, plan, loss, x, over=Over(cond=True), **quiet)",
        (
            "ValueError: optimise over cond: got None, expected floating point conditioning; pass the "
            "embedding of a label instead of the label, or over=Over(cond=False)"
        ),
    ),
    "over noise of a plan without": (
        "optimise(denoiser, plan, loss, x, over=Over(noise=True), **quiet)",
        (
            "ValueError: optimise over noise: got noise=None and a plan with 0 noise slots, expected a "
            "stochastic plan and a source; take DDPM() and noise=Addressed(seed), or a tensor (slots, B, ...)"
        ),
    ),
    "optimiser's class": (
        "optimise(denoiser, plan, loss, x, optimiser=torch.optim.Adam, **quiet)",
        (
            "TypeError: optimiser: got the class Adam, expected a function from a list of variables to an "
            "optimiser; write adam(0.05), or lambda variables: torch.optim.AdamW(variables)"
        ),
    ),
    "optimiser's name": (
        'optimise(denoiser, plan, loss, x, optimiser="adam", **quiet)',
        (
            "TypeError: optimiser: got 'adam', expected a function from a list of variables to an optimiser; "
            "write adam(0.05), or lambda variables: torch.optim.AdamW(variables)"
        ),
    ),
    "loss that is one number": (
        "optimise(denoiser, plan, lambda x: x.square().sum(), x, **quiet)",
        (
            "ValueError: loss: got shape (), expected (4,): one value per sample; reduce over every axis but "
            "the first"
        ),
    ),
    "loss as a tensor": (
        "optimise(denoiser, plan, x.sum(), x, **quiet)",
        (
            "TypeError: loss: got a tensor () of torch.float32, expected a function of the sample; pass "
            "lambda x: ... (B,)"
        ),
    ),
    "no step": (
        "optimise(denoiser, plan, loss, x, steps=0)",
        "ValueError: optimise: got steps=0, expected at least 1; one step is one gradient",
    ),
    "method for a plan in optimise": (
        "optimise(denoiser, DDIM(), loss, x, **quiet)",
        (
            "TypeError: plan: got a DDIM, expected a Plan; compile one: "
            "DPMSolverPP(2).plan(denoiser.process, grid)"
        ),
    ),
    "ball as a number": (
        "pgd(loss, x, 0.1)",
        "TypeError: balls: got 0.1, expected a ball for each start, or one; write Linf(0.1) or L2(1.0)",
    ),
    "a dict attacked": (
        'pgd(loss, {"a": x}, Linf(0.1))',
        (
            "TypeError: starts: got a dict, expected a tensor (B, ...) or a tuple of them; write pgd(loss, x, ...) or "
            "pgd(loss, (x, cond), ...)"
        ),
    ),
    "an attack under no_grad": (
        "torch.no_grad()(pgd)(loss, x, Linf(0.1))",
        (
            "ValueError: pgd: got a call under torch.no_grad() or inference_mode(), expected grad mode on, since it "
            "takes gradients itself; call it outside of it"
        ),
    ),
    "particles of a dict": (
        'starting_particles(Addressed(0), {"video": x}, 4)',
        (
            "TypeError: like: got a dict, expected a tensor; torch.as_tensor(...) makes one of an array or a list of "
            "numbers"
        ),
    ),
    "pgd's loss is one number": (
        "pgd(lambda x: x.sum(), x, Linf(0.1))",
        (
            "ValueError: loss: got shape (), expected (4,): one value per sample; reduce over every axis but "
            "the first"
        ),
    ),
    "particles without their axis": (
        "smc(denoiser, noisy, x, lambda x, c: -loss(x), Addressed(0))",
        (
            "ValueError: x: got shape (4, 2), expected (B, K, ...): K particles for each sample; see "
            "`starting_particles`"
        ),
    ),
    "particles of a plan without noise": (
        "smc(denoiser, plan, x[:, None], lambda x, c: -loss(x), Addressed(0))",
        (
            "ValueError: smc: got DPMSolverPP(order=2, exact=False, starter=False, cap=2.5), which draws no "
            "noise, expected a stochastic plan; take DDPM() or DDIM(1.0)"
        ),
    ),
    "particles' seed as a number": (
        "smc(denoiser, noisy, x[:, None], lambda x, c: -loss(x), 0)",
        "TypeError: noise: got 0, expected Addressed(seed); each particle has a stream of it",
    ),
    "edit that rises": (
        "edit.ddim_inversion(denoiser, x, source=None, target=None, grid=torch.tensor([0.1, 0.9]))",
        (
            "ValueError: grid: got times rising from 0.1, expected a grid falling from noise to data, as for "
            "sampling; a method that inverts goes along it backwards by itself"
        ),
    ),
    "edit of another process": (
        "edit.rf_inversion(denoiser, x, source=None, target=None)",
        (
            "ValueError: rf_inversion: got a denoiser on VP(beta_min=0.1, beta_max=20.0, t_min=0.0, "
            "t_max=1.0), expected RectifiedFlow(); wrap the network in one, or take ddim_inversion, "
            "cycle_diffusion or sdedit, which work on any process"
        ),
    ),
    "log that is not there": (
        'read_log("runs/nothing")',
        (
            "FileNotFoundError: path: got runs/nothing, where nothing is, expected a log.jsonl or its "
            "folder; pass the `out` of the run's TrainConfig"
        ),
    ),
    "log as a number": (
        "read_log(3)",
        "TypeError: path: got 3, expected a path to a log.jsonl or its folder; pass config.out",
    ),
    "objective's class": (
        (
            "RewardTrainer(denoiser, plan, DRaFT, lambda x, c: -loss(x), Prompts([Prompt()], (2,)), "
            'TrainConfig("out", 1))'
        ),
        "TypeError: objective: got the class DRaFT, expected an instance of it; write DRaFT()",
    ),
    "config as a dict": (
        (
            "RewardTrainer(denoiser, plan, DRaFT(), lambda x, c: -loss(x), Prompts([Prompt()], (2,)), "
            '{"out": "out"})'
        ),
        "TypeError: config: got a dict, expected a TrainConfig; write TrainConfig(out, iterations)",
    ),
    "prompts as strings": (
        'Prompts(["a dog"], (2,))',
        "TypeError: Prompts: got items of str, expected Prompt(cond, context); wrap each in one",
    ),
    "prompts as a list": (
        ('RewardTrainer(denoiser, plan, DRaFT(), lambda x, c: -loss(x), ["a dog"], TrainConfig("out", 1))'),
        ("TypeError: prompts: got a list, expected Prompts; write Prompts([Prompt(cond, context)], shape)"),
    ),
    "reward that is none": (
        'RewardTrainer(denoiser, plan, DRaFT(), 3.0, Prompts([Prompt()], (2,)), TrainConfig("out", 1))',
        (
            "TypeError: reward: got 3.0, expected a function of (samples, context) to (B,); pass lambda x, "
            "context: ..., or a Reward()"
        ),
    ),
    "adapters of a network": (
        "lora(net)",
        (
            "TypeError: lora: got a Network, expected a Denoiser; wrap the network: Denoiser(network, "
            "process, prediction)"
        ),
    ),
}
GRAMMAR = re.compile(r"\w+(Error|Warning): .+?: got .+, expected .+; .+", re.S)


@pytest.fixture(scope="module")
def found():
    """All of them in one process of its own: here the suite's type checker would speak first."""
    return said({name: code for name, (code, _) in MISTAKES.items()})


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told(name, found):
    assert found[name] == MISTAKES[name][1]
    assert GRAMMAR.fullmatch(found[name])


def test_there_are_enough_of_them():
    assert len(MISTAKES) >= 62


# the silent ones
# -----------------------------------------------------------------------------------------------------------------

LAW = Mixture.isotropic(
    torch.ones(2), torch.tensor([[1.0, 0.0, -1.0, 0.3], [-1.0, 0.5, 1.0, -0.3]]), torch.tensor([0.3, 0.3])
).to(torch.float64)
X0 = LAW.sample(64, torch.Generator().manual_seed(0))


class Exact(nn.Module):
    """The exact v of `LAW` under VP(), as a network: with dropout, normalised over the batch, or with a part that
    autograd does not see.
    """

    def __init__(self, dropout=0.0, over_batch=False, hidden=False):
        super().__init__()
        self.drop, self.over_batch, self.hidden = nn.Dropout(dropout), over_batch, hidden
        self.data = LAW.denoiser(VP())

    def forward(self, x, t):
        if self.over_batch:
            x = x - 0.3 * x.mean(0)
        out = convert(self.data(x, t), x, DATA, V, VP(), t)
        if self.hidden:
            with torch.no_grad():
                out = out + 0.2 * x.roll(1, -1)
        return self.drop(out)


def test_the_right_network_has_no_fault():
    found = check(Denoiser(Exact(), VP(), V), X0)
    assert found.right and not found.faults and "what is declared fits" in str(found)


def test_a_wrong_prediction_is_seen():
    found = check(Denoiser(Exact(), VP(), NOISE), X0)
    assert not found.right and found.verdict == "what is declared does not fit; write Denoiser(..., V)"


def test_a_network_of_0_to_999_under_vp_is_seen():
    exact = Exact()
    found = check(Denoiser(lambda x, t: exact(x, t / 999), VP(), V), X0)
    assert not found.right and found.verdict.endswith("write Denoiser(..., V, label=Scaled(999.0))")
    assert check(Denoiser(lambda x, t: exact(x, t / 999), VP(), V, label=Scaled(999.0)), X0).right


@pytest.mark.parametrize(
    "how, said",
    [
        ({"dropout": 0.1}, "random: two calls at one state differ"),
        ({"over_batch": True}, "mixed batch: a sample changes"),
        ({"hidden": True}, "gradient: d output / dx is off"),
    ],
)
def test_a_network_with_a_fault_is_seen(how, said):
    network = Exact(**how)
    (fault,) = check(Denoiser(network, VP(), V), X0).faults
    assert fault.startswith(said) and ", expected " in fault and "; " in fault
    if "dropout" in how:
        assert not check(Denoiser(network.eval(), VP(), V), X0).faults


def test_conditioning_of_batch_one_is_that_of_all():
    """No mistake: the same sample as one for each, and the sum of its gradients."""
    denoiser, plan = LAW.denoiser(VP()), DPMSolverPP(2).plan(VP(), UniformLambda(4, start=1.0, end=0.03))
    x, one = torch.randn(3, 4), torch.randn(1, 4, requires_grad=True)
    each = one.detach().expand(3, 4).clone().requires_grad_()
    found, wanted = (sample(denoiser, plan, x, cond=cond) for cond in (one, each))
    assert torch.equal(found, wanted)
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert one.grad is not None and each.grad is not None
    assert torch.allclose(one.grad, each.grad.sum(0, keepdim=True), rtol=1e-12)
