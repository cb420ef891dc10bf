"""diffrax's side of benchmarks/peers.py: the law of peers_exact and a perceptron written in jnp, one compiled value and
gradient for each solver and adjoint."""

import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import peers_exact as exact
import torch
from torch import Tensor, nn

DOUBLE = "jax_enable_x64"
# (solver, its calls a step, whether it chooses its steps)
SOLVERS = (("Heun", 2, False), ("Tsit5", 6, False), ("Tsit5", 6, True))
ADJOINTS = ("RecursiveCheckpointAdjoint", "BacksolveAdjoint", "DirectAdjoint")


def libraries(double: bool) -> tuple[Any, Any, Any]:
    """jax, jax.numpy and diffrax."""
    jax: Any = importlib.import_module("jax")
    jax.config.update(DOUBLE, double)
    return jax, importlib.import_module("jax.numpy"), importlib.import_module("diffrax")


def slope(u: Any, x: Any, law: Mapping[str, Any], in_t: bool, jax: Any, jnp: Any) -> Any:
    """`peers_exact.slope` in jnp: dx/dlambda or dx/dt, and the same VP written out."""
    low, high = exact.PROCESS.beta_min, exact.PROCESS.beta_max
    if in_t:
        log_alpha = -(high - low) * u**2 / 4 - low * u / 2
        alpha, sigma2 = jnp.exp(log_alpha), -jnp.expm1(2 * log_alpha)
    else:
        alpha, sigma2 = jnp.sqrt(jax.nn.sigmoid(2 * u)), jax.nn.sigmoid(-2 * u)
    stds2 = jnp.exp(2 * law["log_stds"])
    centres, variances = alpha * law["means"], alpha**2 * stds2 + sigma2
    share = jax.nn.softmax(
        law["logits"] - (x - centres) ** 2 / (2 * variances) - jnp.log(variances) / 2, axis=1
    )
    data = (share * (law["means"] + alpha * stds2 / variances * (x - centres))).sum(1, keepdims=True)
    rate = alpha * data - alpha**2 * x
    return rate * -(low + (high - low) * u) / (2 * sigma2) if in_t else rate


def accuracy(
    budgets: tuple[int, ...], digits: tuple[float, ...], truth: tuple[Tensor, Tensor]
) -> list[dict[str, Any]]:
    """A row for each solver, variable, adjoint and number of steps or tolerance."""
    jax, jnp, diffrax = libraries(double=True)
    law = {name: jnp.asarray(value, dtype=jnp.float64) for name, value in exact.WEIGHTS.items()}
    x, rows = jnp.asarray(exact.draws().numpy()), []
    calls = [0]  # of the network, counted from inside the compiled loop

    def bump() -> None:
        calls[0] += 1

    for name, stages, adaptive in SOLVERS:
        for variable in ("t", "lambda"):
            first, last = (exact.START, exact.END) if variable == "t" else exact.LAMBDAS

            def solve(law: Any, x: Any, fine: Any, adjoint: Any, counted: bool, n: str = name, a: bool = adaptive,
                      v: str = variable, first: float = first, last: float = last) -> Any:  # fmt: skip
                def field(u: Any, x: Any, law: Any) -> Any:
                    if counted:
                        jax.debug.callback(bump)
                    return slope(u, x, law, v == "t", jax, jnp)

                end = diffrax.diffeqsolve(
                    diffrax.ODETerm(field), getattr(diffrax, n)(), first, last, None if a else fine, x, law,
                    stepsize_controller=diffrax.PIDController(rtol=fine, atol=fine)
                    if a else diffrax.ConstantStepSize(),
                    adjoint=adjoint, max_steps=1024,
                ).ys[0]  # fmt: skip
                return ((end - 1) ** 2).sum() / 2

            count = jax.jit(lambda fine, s=solve: s(law, x, fine, diffrax.RecursiveCheckpointAdjoint(), True))
            for adjoint in ADJOINTS[:2]:
                how = getattr(diffrax, adjoint)()
                both = jax.jit(
                    jax.grad(lambda law, x, fine, s=solve, h=how: s(law, x, fine, h, False), (0, 1))
                )
                wanted = (
                    [10.0**-d for d in digits]
                    if adaptive
                    else [(last - first) / (b // stages) for b in budgets]
                )
                for fine in wanted:
                    calls[0] = 0
                    count(fine).block_until_ready()
                    jax.effects_barrier()
                    at_law, at_x = both(law, x, fine)
                    found = [
                        torch.from_numpy(np.array(g).flatten())
                        for g in (at_x, *map(at_law.get, exact.WEIGHTS))
                    ]
                    rows.append(
                        {"side": "diffrax", "method": f"{name}{', adaptive' if adaptive else ''}",
                         "variable": variable, "gradient": adjoint, "calls": calls[0],
                         **exact.errors((found[0], torch.cat(found[1:])), truth)}
                    )  # fmt: skip
                print(".", end="", flush=True)
    return rows


def runs(
    network: nn.Module, x: Tensor, steps: int, only: str = ""
) -> tuple[dict[str, Any], dict[str, float]]:
    """Value and gradient at x and the weights of the same Euler steps from t = 1 to 0; seconds each took to compile."""
    jax, jnp, diffrax = libraries(double=False)
    layers = [
        (jnp.asarray(each.weight.detach().numpy()), jnp.asarray(each.bias.detach().numpy()))
        for each in network.modules()
        if isinstance(each, nn.Linear)
    ]
    start = jnp.asarray(x.detach().numpy())

    def field(t: Any, x: Any, layers: Any) -> Any:
        h = jnp.concatenate([x, jnp.full((len(x), 1), t, x.dtype)], 1)
        for k, (weight, bias) in enumerate(layers):
            h = h @ weight.T + bias
            h = jax.nn.silu(h) if k + 1 < len(layers) else h
        return h

    def value(layers: Any, x: Any, adjoint: Any) -> Any:
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Euler(), 1.0, 0.0, -1.0 / steps, x, layers,
            adjoint=adjoint, max_steps=steps,
        )  # fmt: skip
        return (found.ys[0] ** 2).sum()

    hows = {name: getattr(diffrax, name)() for name in ADJOINTS}
    hows["RecursiveCheckpointAdjoint, every state"] = diffrax.RecursiveCheckpointAdjoint(checkpoints=steps)
    made: dict[str, Callable[[], Any]] = {}
    took: dict[str, float] = {}
    for name, how in hows.items():
        if only and name != only:
            continue
        both = jax.jit(jax.value_and_grad(lambda layers, x, how=how: value(layers, x, how), (0, 1)))

        def run(both: Any = both) -> Any:
            return jax.block_until_ready(both(layers, start))

        began = time.process_time()
        run()
        took[f"diffrax, {name}"] = time.process_time() - began
        made[f"diffrax, {name}"] = run
    return made, took


def in_torch(found: Any) -> list[Tensor]:
    """What a run gives, as (gradient at x, gradients at the weights in the order of `parameters()`)."""
    _, (layers, x) = found
    return [torch.from_numpy(np.array(g)) for g in (x, *(g for layer in layers for g in layer))]
