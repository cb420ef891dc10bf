"""Models with exact answers: Gaussians and Gaussian mixtures under x_t = alpha x_0 + sigma eps.

The oracle of the library's laws, and a stand-in for a network in experiments. Everything is batched, runs in
the wider of the state's and the model's dtype, returns the state's dtype, and is differentiable in x, alpha,
sigma and in the model's own weights, means and covariances.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..checked import CheckedFields, checked
from ..model import Denoiser
from ..notebook import Shown
from ..prediction import DATA
from ..process import Process
from ..wanted import NonNegative, Numbers
from . import posterior as laws
from . import transport
from .covariances import Covariances, Level, covariances_of, rounded


def _like(value: Any, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


@dataclass(frozen=True, eq=False, repr=False)
class Mixture(Shown, CheckedFields):
    """p(x_0) = sum_k weights_k N(x_0; means_k, C_k).

    With S_k = alpha^2 C_k + sigma^2 I and responsibilities w_k(x), softmax of log weights_k + log N(x; alpha
    means_k, S_k):
        E[x_0|x] = sum_k w_k (means_k + alpha C_k S_k^-1 (x - alpha means_k))
        E[eps|x] = sum_k w_k sigma S_k^-1 (x - alpha means_k)
    alpha = 0 and sigma = 0 are legal (prior mean; x/alpha, projected on the support where C_k is singular).

    Args:
        weights: (K,), positive; scaled to sum to 1 if they do not.
        means: (K, d).
        spread: covariances (K, d, d), symmetric positive semi-definite, or standard deviations (K,) >= 0 of
            isotropic components. Covariances that require a gradient must be positive definite.

    States are (B, *event) with prod(event) = d; alpha and sigma are numbers, scalar tensors or one value per
    sample, (B,). Do not change the tensors in place unless they require gradients: what can be is computed
    here, once.

    Raises:
        ValueError: shapes that do not fit, weights not positive, a covariance not symmetric positive
            semi-definite.

    Cost: one eigendecomposition per component here, then O(B K d^2) a call (isotropic: O(B K d)); covariances
    that require gradients are factorised at every call, O(B K d^3).
    """

    weights: Numbers
    means: Numbers
    spread: Numbers
    _covs: Covariances = field(init=False, repr=False)
    _log_w: Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        w, m, s = self.weights, self.means, self.spread
        if m.ndim != 2 or w.shape != m.shape[:1] or s.shape not in (w.shape, m.shape + m.shape[1:]):
            raise ValueError(
                f"Mixture: got weights {tuple(w.shape)}, means {tuple(m.shape)}, spread {tuple(s.shape)}; "
                "expected (K,), (K, d) and (K, d, d) or (K,); give every component one weight, one mean, one "
                "covariance (or one std)"
            )
        if s.ndim == 3 and s.dtype.itemsize < 4:
            raise ValueError(
                f"Mixture: got covariances in {s.dtype}, expected float32 or wider, in which they can be taken apart; "
                "pass spread.float()"
            )
        if not bool(((w > 0) & w.isfinite()).all()):
            raise ValueError(
                f"weights: got {w.tolist()}, expected positive finite numbers; drop empty components"
            )
        total = w.sum()
        if abs(float(total.detach()) - 1) > 64 * torch.finfo(w.dtype).eps:
            object.__setattr__(self, "weights", w / total)
        object.__setattr__(self, "_covs", covariances_of(s))
        object.__setattr__(self, "_log_w", None if w.requires_grad else self.weights.log())

    @classmethod
    def isotropic(cls, weights: Tensor, means: Tensor, stds: Tensor | float) -> "Mixture":
        """Components N(means_k, stds_k^2 I); one number serves all components."""
        return cls(weights, means, _like(stds, means).expand(weights.shape))

    def to(self, *args: Any, **kwargs: Any) -> "Mixture":
        """A copy with every tensor moved as by `Tensor.to`."""
        weights, means, spread = (v.to(*args, **kwargs) for v in (self.weights, self.means, self.spread))
        return Mixture(weights, means, rounded(spread, self.spread.dtype) if spread.ndim == 3 else spread)

    @property
    def covs(self) -> Tensor:
        """Covariances as (K, d, d)."""
        return self._covs.covs(self.means.shape[1])

    @property
    def log_weights(self) -> Tensor:
        """log weights (K,), normalised inside the graph, so that a gradient in the weights is that of their ratios."""
        return self.weights.log().log_softmax(-1) if self._log_w is None else self._log_w

    @property
    def mean(self) -> Tensor:
        """E[x_0], (d,)."""
        return self.log_weights.exp() @ self.means

    @property
    def cov(self) -> Tensor:
        """Cov[x_0], (d, d)."""
        off = self.means - self.mean
        return (self.log_weights.exp()[:, None, None] * (self.covs + off[:, :, None] * off[:, None, :])).sum(
            0
        )

    # one evaluation
    # -------------------------------------------------------------------------------------------------

    def _enter(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Level, Level]:
        """x as (B, d) in the wider dtype; levels as numbers or (B, 1, 1)."""
        d = self.means.shape[1]
        if x.ndim < 2 or x.shape[1:].numel() != d:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}, expected (B, ...) with {d} numbers per sample; add a batch "
                "axis or match the model's dimension"
            )
        x = x.flatten(1).to(torch.promote_types(x.dtype, self.means.dtype))
        return x, _level(alpha, x), _level(sigma, x)

    def _solve(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor, Level]:
        """Log weights of the components given x (B, K), S^-1 (x - alpha m) (B, K, d) in their frames, alpha."""
        x, alpha, sigma = self._enter(x, alpha, sigma)
        q, energy = self._covs.solve(x, self.means, alpha, sigma)
        return self.log_weights - 0.5 * energy, q, alpha

    def denoise(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """E[x_0 | x], in x's shape and dtype."""
        return self._data(*self._solve(x, alpha, sigma)).to(x.dtype).view_as(x)

    def _data(self, logits: Tensor, q: Tensor, alpha: Level) -> Tensor:
        w = logits.softmax(-1)
        pull = self._covs.total_times_cov(w[..., None] * q)
        return w @ self.means + (alpha[:, 0] if isinstance(alpha, Tensor) and alpha.ndim else alpha) * pull

    def data_and_noise(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        """(E[x_0|x], E[eps|x]) of one evaluation; both finite at alpha = 0 and at sigma = 0."""
        logits, q, level = self._solve(x, alpha, sigma)
        push = self._covs.total(logits.softmax(-1)[..., None] * q)
        noise = (sigma.to(push).reshape(-1, 1) if isinstance(sigma, Tensor) else sigma) * push
        data = self._data(logits, q, level)
        return data.to(x.dtype).view_as(x), noise.to(x.dtype).view_as(x)

    def noise(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """E[eps | x]."""
        return self.data_and_noise(x, alpha, sigma)[1]

    def score(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """grad_x log p_t(x) = -sum_k w_k S_k^-1 (x - alpha m_k)."""
        logits, q, _ = self._solve(x, alpha, sigma)
        return -self._covs.total(logits.softmax(-1)[..., None] * q).to(x.dtype).view_as(x)

    def responsibilities(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """p(k | x), (B, K)."""
        return self._solve(x, alpha, sigma)[0].softmax(-1).to(x.dtype)

    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """log p_t(x), (B,). No density exists, and none is returned with meaning, where sigma = 0 and C_k is
        singular.
        """
        logits = self._solve(x, alpha, sigma)[0]
        return (logits.logsumexp(-1) - 0.5 * self.means.shape[1] * math.log(2 * math.pi)).to(x.dtype)

    def denoiser(self, process: Process) -> Denoiser:
        """The exact DATA network. `cond`, (B, d) or (d,) or of x's shape, shifts every mean: D(x - alpha
        cond) + cond.
        """

        def network(x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            alpha, sigma = process.alpha(t), process.sigma(t)
            if cond is None:
                return self.denoise(x, alpha, sigma)
            if cond.numel() not in (x[0].numel(), x.numel()):
                raise ValueError(
                    f"cond: got shape {tuple(cond.shape)}, expected a shift of the means, one for all "
                    f"samples or one each for {tuple(x.shape)}"
                )
            shift = cond.to(x).reshape(-1, *x.shape[1:])
            return shift + self.denoise(
                x - alpha.to(x).reshape(-1, *[1] * (x.ndim - 1)) * shift, alpha, sigma
            )

        return Denoiser(network, process, DATA)

    # laws
    # -----------------------------------------------------------------------------------------------------------

    def marginal(self, alpha: Level, sigma: Level) -> "Mixture":
        """The law of x_t, for one alpha and one sigma."""
        a, s = _like(alpha, self.means), _like(sigma, self.means)
        return Mixture(self.weights, a * self.means, self._covs.noised(a, s))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws (n, d); the generator lives on the model's device. Gradients reach means and spread, not weights."""
        which = torch.multinomial(self.weights.detach(), n, replacement=True, generator=generator)
        z = torch.randn(
            n, self.means.shape[1], generator=generator, dtype=self.means.dtype, device=self.means.device
        )
        return self.means[which] + self._covs.drawn(which, z)

    def _factors(self) -> Tensor:
        """L_k with L_k L_k^T = C_k."""
        return self._covs.factors(self.means.shape[1])

    def posterior(self, a: Tensor, y: Tensor, noise_std: Level) -> "Mixture":
        """The exact law of x_0 given y = A x_0 + noise_std n, A (m, d), y (m,). One y: loop for several.

        Raises:
            ValueError: shapes that do not fit, noise_std < 0, or noise_std = 0 with A C A^T singular.
        """
        if y.ndim != 1:
            raise ValueError(
                f"y: got shape {tuple(y.shape)}, expected one measurement ({len(a)},); call once per "
                "measurement"
            )
        a, y, std = laws.measured(self.means, a, y, noise_std)
        return self._built(*laws.posterior(self.log_weights, self.means, self._factors(), a, y, std))

    def evidence(self, a: Tensor, y: Tensor, noise_std: Level) -> Tensor:
        """log p(y) of y = A x_0 + noise_std n: (...) for y (..., m)."""
        a, y, std = laws.measured(self.means, a, y, noise_std)
        return laws.log_evidence(self.log_weights, self.means, self._factors(), a, y, std).logsumexp(-1)

    def tilted(
        self, linear: Tensor | None = None, quadratic: Tensor | None = None, beta: Level = 1.0
    ) -> "tuple[Mixture, Tensor]":
        """(q, log Z) of q(x) = p(x) exp(r(x)/beta) / Z with r(x) = linear.x - x^T quadratic x / 2.

        Raises:
            ValueError: shapes that do not fit, beta <= 0, or an indefinite `quadratic` that outweighs a
                component.
        """
        b, q = laws.reward(self.means, linear, quadratic, beta)
        log_w, means, covs = laws.tilted(self.log_weights, self.means, self._factors(), b, q)
        return self._built(log_w, means, covs), log_w.logsumexp(-1)

    @staticmethod
    def _built(log_w: Tensor, means: Tensor, covs: Tensor) -> "Mixture":
        # a component may become too unlikely for its weight to be written down
        return Mixture(log_w.softmax(-1).clamp(min=torch.finfo(means.dtype).tiny), means, covs)

    # probability flow
    # -----------------------------------------------------------------------------------------------

    def flow(self, x: Tensor, process: Process, t_start: Level, t_end: Level, steps: int = 64) -> Tensor:
        """x at t_end on the probability flow through x at t_start; times are scalars or (B,), both ends included.

        Exact (`transport`) for one component. Otherwise numerical, order 8 in `steps`: near 1e-10 in float64
        by default where the components' scales lie within a factor 100. Autograd runs through it. Cost: 11
        evaluations a step.
        """
        levels = [(process.alpha(t), process.sigma(t)) for t in (t_start, t_end)]
        if len(self.weights) == 1:
            return self.transport(x, levels[0], levels[1])
        flat = self._enter(x, 1.0, 0.0)[0]
        start, end = ((_like(a, flat), _like(s, flat)) for a, s in levels)
        if self._covs.singular and not all(bool((s > 0).all()) for _, s in (start, end)):
            raise ValueError(
                "flow: got sigma = 0 with a singular covariance, expected sigma > 0 there: the flow "
                "contracts onto the support without bound; stop at a small sigma, or add a small multiple of "
                "the identity"
            )
        scales = self._covs.variances.sqrt()
        large = 2 * max(float(scales.max()), float((self.means - self.mean).detach().norm(dim=-1).max()))
        small = max(0.5 * float(scales.min()), 1e-6 * large)
        return (
            transport.flow(self.data_and_noise, flat, start, end, small, large, steps).to(x.dtype).view_as(x)
        )

    def transport_matrix(self, start: tuple[Level, Level], end: tuple[Level, Level]) -> Tensor:
        """J = S_end^(1/2) S_start^(-1/2), the flow's Jacobian, (n, d, d), between (alpha, sigma) pairs; n = 1
        for scalars.

        Only one component has it in closed form. Carries first, not second, derivatives in a full covariance.
        """
        matrix = self._map(start, end, self.means)
        return matrix if self.spread.ndim == 3 else matrix * torch.eye(self.means.shape[1]).to(matrix)

    def transport(self, x: Tensor, start: tuple[Level, Level], end: tuple[Level, Level]) -> Tensor:
        """x_end = alpha_end m + J (x_start - alpha_start m), for one component."""
        flat = self._enter(x, 1.0, 0.0)[0]
        a0, a1 = (_like(a, flat).reshape(-1, 1) for a in (start[0], end[0]))
        matrix, r = self._map(start, end, flat), flat - a0 * self.means
        moved = (matrix @ r[..., None])[..., 0] if self.spread.ndim == 3 else matrix[:, 0] * r
        return (a1 * self.means + moved).to(x.dtype).view_as(x)

    def _map(self, start: tuple[Level, Level], end: tuple[Level, Level], like: Tensor) -> Tensor:
        if len(self.weights) != 1:
            raise ValueError(
                f"transport: got {len(self.weights)} components, expected one; use flow, which integrates"
            )
        a0, s0, a1, s1 = torch.broadcast_tensors(*(_like(v, like).reshape(-1) for v in (*start, *end)))
        return self._covs.transported((a0, s0), (a1, s1))


def _level(value: Level, x: Tensor) -> Level:
    if not isinstance(value, Tensor):
        return value
    if value.numel() == 1:
        return value.to(x).reshape(())
    if value.shape != x.shape[:1]:
        raise ValueError(
            f"alpha or sigma: got shape {tuple(value.shape)}, expected a scalar or ({len(x)},), one per "
            "sample"
        )
    return value.to(x).view(-1, 1, 1)


@checked
def Gaussian(mean: Numbers, cov: Numbers | NonNegative) -> Mixture:
    """N(mean, cov) as a mixture of one: mean (d,), cov (d, d), or a number, the variance of every coordinate.

    With one component `flow`, `transport` and `transport_matrix` are exact.
    """
    spread = cov if isinstance(cov, Tensor) else _like(cov, mean)
    return Mixture(
        mean.new_ones(1).detach(), mean[None], spread[None] if spread.ndim else spread.sqrt()[None]
    )
