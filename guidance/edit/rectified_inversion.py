"""RF-Inversion: an image to structured noise and back under another condition, by controlled ODEs."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...adjoint import AdjointDEIS, Auto, Continuous, Gradient, Truncated, sample
from ...adjoint.arguments import check_serves
from ...solvers import Addressed, FlowEuler, Method, Model, Noise, Plan, UniformT
from ...solvers.checked import checked
from ...solvers.grid import Times
from ...solvers.wanted import Samples
from .base import Edit, check_rectified, falling_times, guided, seed_of, starting, where_wanted
from .controlled import Controlled
from .schedule import Schedule, Strength, jumps, strengths

GAMMA, ETA, GRID = 0.5, Schedule(0.9, stop=0.25), UniformT(28)  # the paper's: eta for 7 of 28 steps


@checked
def rf_inversion(
    denoiser: Model,
    image: Samples,
    *,
    target: Any,
    source: Any = None,
    gamma: Strength = GAMMA,
    eta: Strength = ETA,
    grid: Times = GRID,
    method: Method = FlowEuler(),
    noise: Addressed | Tensor = Addressed(0),
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Edit:
    """Edit `image`: `rf_invert` under `source`, then `rf_regenerate` under `target`.

    gamma = 1 makes the latent exactly y1, eta = 1 the result exactly the image; gamma = eta = 0 is the plain
    round trip. Faithfulness comes from eta's window, editability from where it stops.

    Args:
        image: (B, ...) clean data.
        target, source: conditioning of the edit and of the image; the paper inverts under the null prompt
            (None).
        gamma, eta: in [0, 1]: a number, a Schedule, or a tensor (N,) or (N, B) that receives its gradient.
        grid: falling, from noise to data; inverted along the same nodes.
        noise: y1 is its starting noise; or y1 itself (B, ...).
        scale, null: classifier-free guidance of the way back.
        gradient: the strategy that differentiates the run; None: it only samples.

    Returns:
        An Edit with the structured noise as latent. Gradients reach image, y1, both conditions, gamma, eta,
        scale and weights.

    Raises:
        ValueError: before any network call: another process than RectifiedFlow, a rising grid, strengths
            outside [0, 1], shapes that do not fit, a method that calls the network where the controller ends.

    Cost: 2 N calls for Euler. Source: Rout et al. 2024, arXiv 2410.10792, section 3 (defaults: gamma 0.5, eta
    0.9 for 7 of 28 steps).
    """
    times = _nodes(denoiser, grid)
    up = _pass(denoiser, method, times.flip(0), "gamma", gamma, starting("y1", noise, image), source)
    down = _pass(guided(denoiser, scale, null), method, times, "eta", eta, image, target)
    check_serves(gradient, up.plan, down.plan)
    latent = sample(up.model, up.plan, image, cond=up.cond, gradient=up.strategy(gradient, image))
    out = sample(down.model, down.plan, latent, cond=down.cond, gradient=down.strategy(gradient, latent))
    return Edit(out, latent, up.plan.nfe + down.plan.nfe, seed_of(noise))


@checked
def rf_invert(
    denoiser: Model,
    image: Samples,
    *,
    cond: Any = None,
    gamma: Strength = GAMMA,
    grid: Times = GRID,
    method: Method = FlowEuler(),
    noise: Addressed | Tensor = Addressed(0),
    gradient: Gradient | None = Auto(),
) -> Tensor:
    """dY = [u + gamma ((y1 - Y)/(1 - t) - u)] dt from the image at the grid's last time up to its first:
    structured noise.

    Arguments, source and errors as `rf_inversion`. Cost: one run.
    """
    up = _pass(
        denoiser, method, _nodes(denoiser, grid).flip(0), "gamma", gamma, starting("y1", noise, image), cond
    )
    return sample(up.model, up.plan, image, cond=up.cond, gradient=up.strategy(gradient, image))


@checked
def rf_regenerate(
    denoiser: Model,
    latent: Samples,
    image: Samples,
    *,
    cond: Any,
    eta: Strength = ETA,
    grid: Times = GRID,
    method: Method = FlowEuler(),
    noise: Noise | Tensor | None = None,
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Tensor:
    """dX = [w + eta ((y0 - X)/(1 - s) - w)] ds, w = -u, s = 1 - t, from `latent` to clean data; y0 is `image`.

    A stochastic method (`EulerMaruyama()` is the paper's rectified SDE, theorem 3.5) needs eta = 0: only
    there are the SDE's marginals the ODE's, since the model has the score of the uncontrolled process.
    Arguments, source and errors as `rf_inversion`; `noise` is the stochastic method's. Cost: one run.
    """
    if image.shape != latent.shape:
        raise ValueError(
            f"image: got shape {tuple(image.shape)}, expected the latent's {tuple(latent.shape)}"
        )
    down = _pass(guided(denoiser, scale, null), method, _nodes(denoiser, grid), "eta", eta, image, cond)
    return sample(
        down.model, down.plan, latent, cond=down.cond, noise=noise, gradient=down.strategy(gradient, latent)
    )


@dataclass(frozen=True, eq=False)
class _Pass:
    """One of the two controlled ODEs, ready for `sample`."""

    model: Controlled
    plan: Plan
    cond: dict[str, Any]
    name: str
    strength: Strength

    def strategy(self, gradient: Gradient | None, x: Tensor) -> Gradient | None:
        return self._fitted(where_wanted(gradient, self.model, x, self.cond))

    def _fitted(self, gradient: Gradient | None) -> Gradient | None:
        """`gradient`, a continuous one cut where the controller jumps.

        Raises:
            ValueError: a continuous one where the controller holds to its end, or jumps for each sample elsewhere.
        """
        if isinstance(gradient, Truncated):
            return replace(gradient, inner=self._fitted(gradient.inner))
        if not isinstance(gradient, AdjointDEIS | Continuous):
            return gradient
        gain = self.cond["gain"].values.detach()
        if self.plan.times[-1] == self.model.end and bool(gain[-1].any()):
            raise ValueError(
                f"{self.name}: got {gradient} and a controller that holds up to t={self.model.end:g}, expected one "
                "that stops before: from wherever it starts the controlled flow ends at its anchor, so that the flow's "
                f"own gradient is 0, and no run's; take {self.name}=Schedule(0.5, stop=0.9), or Checkpoint()"
            )
        cuts = jumps(self.strength, gain)
        if cuts and gain.ndim > 1:
            raise ValueError(
                f"{self.name}: got {gradient} and a schedule for each sample, expected one for all: the field's jumps "
                "are taken account of step by step; edit the samples one by one, or use Checkpoint()"
            )
        return replace(gradient, cuts=gradient.cuts or cuts) if isinstance(gradient, Continuous) else gradient


def _nodes(denoiser: Model, grid: Times) -> Tensor:
    check_rectified("rf_inversion", denoiser)
    return falling_times(grid, denoiser.process)


def _pass(
    model: Model, method: Method, times: Tensor, name: str, strength: Strength, anchor: Tensor, cond: Any
) -> _Pass:
    """Along `times`, pulled to `anchor` at t = 1 if they rise and at t = 0 if they fall; all that is refused
    is refused here.
    """
    gain = strengths(name, strength, len(times) - 1, anchor)
    plan = method.along(model.process, times)
    if method.stochastic and bool(gain.detach().any()):
        raise ValueError(
            f"{method}: got {name} up to {float(gain.detach().max()):.4g} with a stochastic method, expected "
            f"{name}=0: SDE and controlled ODE have the same marginals only there; take FlowEuler()"
        )
    controlled = Controlled(model, 1.0 if bool((times[1] > times[0]).any()) else 0.0)
    controlled.check_end(plan, gain)
    return _Pass(controlled, plan, Controlled.cond(cond, anchor, gain), name, strength)
