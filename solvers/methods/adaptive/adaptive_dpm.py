"""AdaptiveDPM: DPM-Solver-12 and -23, on either prediction."""

from dataclasses import dataclass
from numbers import Integral
from typing import Annotated

import torch
from torch import Tensor

from ...broadcast import per_sample
from ...compiler import Method
from ...prediction import DATA, NOISE, Prediction
from ...wanted import OWN_WORDS
from ..dpm import DPMSolverPPSingle
from ..dpm_single import DPMSolverSingle
from ..weights import phi
from .embedded import Ask, EmbeddedPair, Node
from .step_control import PID


@dataclass(frozen=True)
class AdaptiveDPM(EmbeddedPair):
    """DPM-Solver-12 (order 2) and -23 (order 3): single steps of `order` beside those of one order less.

    12: DDIM beside `DPMSolverSingle(2)`. 23: the second-order step with r1 = 1/3 beside `DPMSolverSingle(3)`. With
    prediction=DATA those of DPM-Solver++. Steps are measured in lambda, in either direction.

    The published loop takes the error over the whole batch, so that a sample's steps depend on its batch mates; here
    every sample has its own. Its controller is `IntegralControl(0.9, low=0.0, high=math.inf)`; that of k-diffusion, the
    default here, accepts errors up to 1.5 (12) and 1.9 (23) tolerances.

    Source: Lu et al. 2022, arXiv 2206.00927, algorithm 3; arXiv 2211.01095. Cost: `order` network calls an attempt,
    one less after a rejection.
    """

    order: Annotated[int, OWN_WORDS] = 3
    prediction: Prediction = NOISE
    control = PID()
    first = 0.005  # k-diffusion's 0.05 of a way of about 10

    def __post_init__(self) -> None:
        if not isinstance(self.order, Integral) or self.order not in (2, 3):
            raise ValueError(f"AdaptiveDPM: got order={self.order!r}, expected 2 (for 12) or 3 (for 23)")
        if self.prediction not in (NOISE, DATA):
            raise ValueError(f"AdaptiveDPM: got {self.prediction}, expected NOISE (DPM-Solver) or DATA (++)")

    @property
    def method(self) -> Method:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (DPMSolverSingle if self.prediction == NOISE else DPMSolverPPSingle)(self.order)

    @property
    def want(self) -> Prediction:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.prediction

    @property
    def calls(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.order

    def attempt(
        self, ask: Ask, x: Tensor, here: Tensor, start: Node, end: Node, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # on the noise side alpha and sigma change places, and lambda its sign: w_k(-h) = -v_k(h)
        sign = 1 if self.prediction == DATA else -1
        h = end.lam - start.lam

        def weight(k: int, share: float = 1.0) -> Tensor:
            return torch.tensor([phi(sign * share * v, k) for v in h.tolist()], dtype=torch.float64)

        def reached(node: Node, *terms: tuple[Tensor, Tensor]) -> Tensor:
            kept, gain = (node.sigma, node.alpha) if sign > 0 else (node.alpha, node.sigma)
            ratio = kept / (start.sigma if sign > 0 else start.alpha)
            out = per_sample(ratio.to(x), x) * x
            for w, value in terms:
                out = out + per_sample((gain * w).to(x), x) * value
            return out

        def stage(share: float) -> Node:
            return Node(start.process, start.process.time(start.lam + share * h))

        r = 1 / 2 if self.order == 2 else 1 / 3
        middle = stage(r)
        late = ask(reached(middle, (weight(0, r), here)), middle.t, self.want)
        second = reached(end, (weight(0), here), (weight(0) / (2 * r), late - here))
        if self.order == 2:
            return reached(end, (weight(0), here)), second
        r2, node = 2 / 3, stage(2 / 3)
        bent = reached(node, (weight(0, r2), here), (r2 / r * weight(1, r2), late - here))
        last = ask(bent, node.t, self.want)
        return second, reached(end, (weight(0), here), (weight(1) / r2, last - here))
