"""WithEndpoint: a network of x_t as a model of the centred state that plans run on."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..broadcast import per_sample
from ..kinds import check_kind, described
from ..model import Model
from ..prediction import DATA, FLOW, NOISE, PREDICTIONS, SCORE
from .process import EndpointProcess


class Endpoint(NamedTuple):
    """Conditioning with the endpoint that the run leads away from: `cond=Endpoint(degraded)`.

    A part of the conditioning like any other: (B, ...) as the state, and it receives its gradient under every
    strategy. A network that takes it as input too finds it in `cond`: `Endpoint(mu, {"mu": mu})`.
    """

    end: Tensor
    cond: Any = None


class WithEndpoint(Model):
    """The prediction at y of a model that is called with x_t = a end + s y.

        process = MeanReverting(0.2)
        model = WithEndpoint(Denoiser(network, process, NOISE))        # network(x_t, t)
        plan = DPMSolverPP(2).plan(process, UniformLambda(10))
        x0 = sample(model, plan, process.start(mu, noise), cond=Endpoint(mu))

    NOISE and DATA are the same for x and y. Of the others, the network's is that of x_t = a end + b x_0 + c eps (b = s
    alpha, c = s sigma) and what is returned is y's:

        SCORE  grad log p(x_t | end) = -eps/c, times s
        V      b eps - c x_0, divided by s
        FLOW   dx/dt = a' end + b' x_0 + c' eps, becomes (dx/dt - a' end - s' y)/s

    A grid that ends before t_min leaves y there; `process.state(y, end, t)` is x_t. A bridge starts where s = 0 and
    needs a DATA network there: eps cannot be read off x_T.

    Raises:
        TypeError: a model on another process; conditioning that is no `Endpoint`. ValueError: a network whose
            prediction says nothing where s = 0, on a grid that goes there.

    Cost: the network call, and three operations on the state.
    """

    process: EndpointProcess  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, denoiser: Model) -> None:
        check_kind("denoiser", denoiser, Model, Model.WANTED)
        check_kind("denoiser.process", denoiser.process, EndpointProcess, "an EndpointProcess, such as "
                   "MeanReverting(level=0.2) or DiffusionBridge(VP()); build the Denoiser on one")  # fmt: skip
        assert isinstance(denoiser.process, EndpointProcess)
        if denoiser.prediction not in PREDICTIONS:
            raise ValueError(
                f"denoiser.prediction: got {denoiser.prediction.name}, expected NOISE, DATA, V, FLOW or SCORE, of "
                "which it is known what x and y make of them; turn the network's answer into one of these by call="
            )
        self.denoiser, self.prediction = denoiser, denoiser.prediction
        self.process = denoiser.process  # pyright: ignore[reportIncompatibleVariableOverride]

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        if not isinstance(cond, Endpoint):
            raise TypeError(
                f"cond: got {described(cond)}, expected Endpoint(end, cond) with the image that the process ends at; "
                "pass cond=Endpoint(degraded)"
            )
        end = cond.end
        if not isinstance(end, Tensor) or end.shape[1:] != x.shape[1:] or len(end) not in (1, len(x)):
            raise ValueError(
                f"Endpoint: got end={described(end)}, expected a tensor {tuple(x.shape)}, as the state is one tensor; "
                "pass one degraded image for each sample"
            )
        out = self.denoiser(self.process.state(x, end, t), t, cond.cond)
        if self.prediction in (NOISE, DATA):
            return out
        scale = per_sample(self.process.scale(t).to(x), x)
        if self.prediction == SCORE:
            return scale * out
        if self.prediction == FLOW:
            pull, stretch = (per_sample(f(t).to(x), x) for f in (self.process.d_pull, self.process.d_scale))
            out = out - pull * end.to(x.dtype) - stretch * x
        return out / scale

    def parameters(self) -> Iterator[Tensor]:
        yield from self.denoiser.parameters()

    def networks(self) -> Iterator[nn.Module]:
        yield from self.denoiser.networks()

    def check_times(self, times: Tensor) -> None:
        self.denoiser.check_times(times)
        pinned = self.process.scale(times) == 0
        if self.prediction not in (NOISE, DATA) and bool(pinned.any()):
            raise ValueError(
                f"WithEndpoint: got a {self.prediction.name} network at t={float(times[pinned].flatten()[0]):.6g}, "
                "where the state is the endpoint alone, expected a DATA network there; or start the grid a little below"
            )
