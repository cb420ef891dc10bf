"""EnteringTensors: what goes into a run, as its caller wrote it, with other tensors at the places of some."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from ...solvers import GivenNoise, Model
from ...solvers.kinds import described
from ...solvers.packing import State
from ...solvers.per_step import PerStep
from ..replay.bound_model import BoundModel
from ..replay.cond import leaves
from ..replay.wrappers import hooked

Place = tuple[dict[str, Any], str, Tensor]  # a module's dict of parameters, a name in it, and what is there


@dataclass(frozen=True, eq=False)
class EnteringTensors:
    """The arguments of a run, and the tensors among them, or among the model's parameters, that it is differentiated
    at.

    Attributes:
        model: whose modules hold the parameters.
        given: x, cond, noise and controls as `sample` takes them.
        wrt: what it is differentiated at, each once;  spec: their nesting, that of tangents.
        places: where the modules hold those of `wrt` that are parameters.
    """

    model: BoundModel
    given: dict[str, Any]
    wrt: tuple[Tensor, ...]
    spec: TreeSpec
    places: tuple[Place, ...]

    @classmethod
    def of(
        cls, denoiser: Model, x: State, cond: Any, noise: Any, controls: Any, wrt: Any
    ) -> "EnteringTensors":
        """`wrt`: None for x. Raises ValueError where one of them does not enter, or cannot have a tangent."""
        noise = noise.values if isinstance(noise, GivenNoise) else noise
        given, model = {"x": x, "cond": cond, "noise": noise, "controls": controls}, BoundModel(denoiser)
        if reason := hooked(model):
            raise ValueError(
                f"a product with the Jacobian: got {reason}, expected none; move the network to one place"
            )
        found, spec = tree_flatten(x if wrt is None else wrt)
        wanted = {id(value) for value in found}
        if not found or len(wanted) < len(found):
            raise ValueError(f"wrt: got {len(found)} tensors, expected at least one, each once")
        places = tuple([place for place in _held(model) if id(place[2]) in wanted])
        there = {id(leaf) for leaf in (*leaves(list(given.values())), *(value for *_, value in places))}
        for value in found:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise ValueError(
                    f"wrt: got {described(value)}, expected floating point tensors that enter the run; pass wrt=[x, "
                    "cond]"
                )
            if id(value) not in there:
                raise ValueError(
                    f"wrt: got {described(value)} that does not enter the run, expected the very tensors that are "
                    "passed as x, cond, noise or controls, or parameters of the network's modules; pass those, not "
                    "copies or views of them"
                )
        return cls(model, given, tuple(found), spec, places)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors among the arguments, by name."""
        return {
            f"{name}[{k}]": leaf for name, value in self.given.items() for k, leaf in enumerate(leaves(value))
        }

    def tangents(self, tangent: State) -> list[Tensor]:
        """One tangent for each of `wrt`. Raises ValueError where they are of another form."""
        found, spec = tree_flatten(tangent)
        fits = spec == self.spec and all(
            isinstance(t, Tensor) and t.shape == value.shape and t.is_floating_point() and not t.is_meta
            for t, value in zip(found, self.wrt, strict=True)
        )
        if not fits:
            wanted = ", ".join(str(tuple(value.shape)) for value in self.wrt)
            got = ", ".join(described(t) for t in found)
            raise ValueError(
                f"tangent: got {got}, expected {wanted}, nested as wrt is (by default as x is); pass zeros where "
                "nothing moves"
            )
        return [t.detach().to(value) for t, value in zip(found, self.wrt, strict=True)]

    def nested(self, values: Sequence[Tensor]) -> State:
        """One tensor for each of `wrt` in their nesting."""
        return tree_unflatten(list(values), self.spec)

    def standing_in(self, values: Sequence[Tensor]) -> dict[str, Any]:
        """x, cond, noise and controls with `values` for `wrt`; everything else is cut off from its graph."""
        new = {id(old): value for old, value in zip(self.wrt, values, strict=True)}

        def seen(leaf: Any) -> Any:
            if isinstance(leaf, PerStep):
                return PerStep(seen(leaf.values))
            return new.get(id(leaf), leaf.detach()) if isinstance(leaf, Tensor) else leaf

        return tree_map(seen, self.given)

    @contextmanager
    def parameters_as(self, values: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the modules hold those of `values` that stand for parameters in their places."""
        new = {id(old): value for old, value in zip(self.wrt, values, strict=True)}
        try:
            for where, name, value in self.places:
                where[name] = new[id(value)]
            yield
        finally:
            for where, name, value in self.places:
                where[name] = value


def _held(model: Model) -> Iterator[Place]:
    """Where the modules hold their parameters."""
    for network in model.networks():
        for module in network.modules():
            yield from (
                (module._parameters, name, p) for name, p in module._parameters.items() if p is not None
            )
