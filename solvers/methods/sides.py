"""Side: which prediction an exponential integrator takes for a polynomial in lambda, and the step that follows."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..compiler import Builder
from ..prediction import DATA, NOISE, Prediction


@dataclass(frozen=True)
class Side:
    """x_t = (kept_t/kept_s) x_s + gain_t INT_0^1 H e^{-H (1-th)} P(th) dth,   th = (u - lambda_s)/h

        data    P = D   kept = sigma   gain = alpha   H = h
        noise   P = E   kept = alpha   gain = sigma   H = -h

    One formula: with alpha and sigma exchanged lambda changes its sign, and D and E their places. So the weights of
    the data side at -h are those of the noise side. P of node i is the register f"{letter}{i}".
    """

    want: Prediction
    letter: str
    sign: int

    def width(self, b: Builder, i: int) -> float:
        """H of step i."""
        return self.sign * (b.lam[i + 1] - b.lam[i])

    def scales(self, alpha: float, sigma: float) -> tuple[float, float]:
        """(kept, gain)."""
        return (sigma, alpha) if self.sign > 0 else (alpha, sigma)

    def evaluate(self, b: Builder, i: int) -> str:
        """P of node i at "x"."""
        return b.evaluate(f"{self.letter}{i}", b.t[i], self.want)

    def stage(self, b: Builder, i: int, r: float, tag: str, *terms: tuple[float, str]) -> str:
        """P at lambda_s + r h, at the point that the integral's `terms` lead to from "x"."""
        t, alpha, sigma = b.at(b.lam[i] + r * (b.lam[i + 1] - b.lam[i]))
        self._combine(b, i, f"s{i}_{tag}", (alpha, sigma), terms)
        return b.evaluate(f"{self.letter}{i}_{tag}", t, self.want, f"s{i}_{tag}")

    def finish(self, b: Builder, i: int, *terms: tuple[float, str]) -> None:
        """x <- (kept_t/kept_s) x + gain_t times the sum of `terms`, the integral as weights of predictions."""
        self._combine(b, i, "x", (b.alpha[i + 1], b.sigma[i + 1]), terms)

    def _combine(
        self, b: Builder, i: int, out: str, at: tuple[float, float], terms: Iterable[tuple[float, str]]
    ) -> None:
        (kept, gain), (before, _) = self.scales(*at), self.scales(b.alpha[i], b.sigma[i])
        b.combine(out, (kept / before, "x"), *((gain * w, name) for w, name in terms))


ON_DATA = Side(DATA, "D", 1)
ON_NOISE = Side(NOISE, "E", -1)
