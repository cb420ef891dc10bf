"""Exponential-Adams weights in float64: the only file with delicate numerics.

With th = (u - lambda_s)/h counted from the current node, the moments of the two kernels are
    data side   INT_0^1 h e^{-h(1-th)} th^k dth = k! w_k,   w_0 = 1 - e^{-h},  w_k = 1/k! - w_{k-1}/h
    noise side  INT_0^1 h e^{h(1-th)}  th^k dth = k! v_k,   v_0 = e^h - 1,     v_k = v_{k-1}/h - 1/k!
The recurrences cancel for small h, where the series takes over; nodes are centred and scaled, never raw
powers of lambda (monomials in float32 are 93 % wrong at 200 steps and 4 nodes).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def phi(h: float, k: int) -> float:
    """w_k(h) = h phi_{k+1}(-h), phi_k the functions of exponential integrators; v_k(h) = -w_k(-h)."""
    if abs(h) < 1.0:
        return math.fsum((-1) ** j * h ** (j + 1) / math.factorial(k + j + 1) for j in range(24))
    value = -math.expm1(-h)
    for n in range(1, k + 1):
        value = 1 / math.factorial(n) - value / h
    return value


def node_weights(moments: Sequence[float], nodes: Sequence[float]) -> list[float]:
    """Weights b with sum_j b_j nodes_j^k = moments_k: the integral of the Lagrange interpolant through scaled nodes.

    The Lagrange basis is expanded in monomials of th by products: nodes are O(1) and at most six, so this is
    exact to a few units of rounding.
    """
    weights = []
    for j, node in enumerate(nodes):
        basis = [1.0]
        for i, other in enumerate(nodes):
            if i != j:
                shifted = [0.0, *basis]
                basis = [
                    (s - other * b) / (node - other) for s, b in zip(shifted, [*basis, 0.0], strict=True)
                ]
        weights.append(math.fsum(c * m for c, m in zip(basis, moments, strict=True)))
    return weights


def data_weights(h: float, nodes: Sequence[float]) -> list[float]:
    """INT_0^1 h e^{-h(1-th)} L_j(th) dth for the scaled nodes: weights of past data predictions."""
    return node_weights([math.factorial(k) * phi(h, k) for k in range(len(nodes))], nodes)


def plain_weights(nodes: Sequence[float]) -> list[float]:
    """INT_0^1 L_j(th) dth: variable-step Adams-Bashforth weights per unit step."""
    return node_weights([1 / (k + 1) for k in range(len(nodes))], nodes)


def lagrange(points: np.ndarray, nodes: Sequence[float], j: int) -> np.ndarray:
    """L_j at `points`."""
    value = np.ones_like(points)
    for i, other in enumerate(nodes):
        if i != j:
            value = value * (points - other) / (nodes[j] - other)
    return value


def integrate(fn: Callable[[np.ndarray], np.ndarray], low: float, high: float, panel: float = 1.0) -> float:
    """INT_low^high fn by Gauss-Legendre with 32 nodes on panels no longer than `panel`."""
    count = max(1, math.ceil(abs(high - low) / panel))
    edges = np.linspace(low, high, count + 1)
    total = 0.0
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        total += (b - a) / 2 * float(np.dot(_WEIGHTS, fn((a + b) / 2 + (b - a) / 2 * _NODES)))
    return total
