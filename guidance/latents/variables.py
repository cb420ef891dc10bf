"""What `optimise` changes, as leaves of a graph: made, found, clipped, and let go."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...adjoint import Input, PerStep
from ...adjoint.replay.cond import leaves
from ...solvers import Model, Noise, Plan
from ...solvers.broadcast import per_sample
from ...solvers.kinds import described


@dataclass(frozen=True)
class Over:
    """What to optimise: the starting state, injected noise, conditioning, controls, denoiser parameters.

    `cond_rows`: every tensor of the conditioning that moves is (B, ...), each sample's row its own, as x is: its best
    point is then kept sample by sample. Otherwise conditioning counts as shared, and the total decides.
    """

    WANTED: ClassVar[str] = "Over(...); name what to optimise: Over(x=True, cond=True)"
    x: bool = True
    noise: bool = False
    cond: bool = False
    cond_rows: bool = False
    controls: bool = False
    parameters: bool = False

    @property
    def inputs(self) -> frozenset[Input]:
        """The same by kind."""
        return frozenset(each for each in Input if getattr(self, each.value))


@dataclass(frozen=True, eq=False)
class Variables:
    """Everything that enters the sampler; what is optimised of it as new leaves, none of the caller's tensors.

    Attributes:
        x: (B, ...), a leaf.  cond: with leaves of its own where it is optimised.
        noise, controls: as given; not looked at where `rows` has them.
        rows: the optimised of noise (B, slots, ...) and controls (B, N, ...), turned so that the batch comes
            first: clipping, line searches and priors go row by row.
        own: the optimised tensors of which each sample has its row;  shared: those that batch mates share,
            leaves of the conditioning and parameters.
    """

    x: Tensor
    cond: Any
    noise: Noise | Tensor | None
    controls: Tensor | None
    rows: dict[str, Tensor]
    own: list[Tensor]
    shared: list[Tensor]

    @classmethod
    def of(
        cls,
        over: Over,
        denoiser: Model,
        plan: Plan,
        x: Tensor,
        cond: Any,
        noise: Noise | Tensor | None,
        controls: Tensor | None,
    ) -> "Variables":
        """Raises ValueError where `over` names what is not there, or nothing."""
        x, rows, each, shared = x.detach().clone().requires_grad_(over.x), {}, [], []
        if over.noise:
            rows["noise"] = _batch_first(_as_tensor(noise, plan, x))
        if over.controls:
            rows["controls"] = _batch_first(
                x.new_zeros(plan.steps, *x.shape) if controls is None else controls
            )
        if over.cond:
            _check_differentiable(cond)
            cond = tree_map(_variable, cond, is_leaf=_is_per_step)
            if over.cond_rows:
                _check_rows(cond, len(x))
                each = _tensors(cond)
            else:
                shared += _tensors(cond)
        if over.parameters:
            shared += [p for p in denoiser.parameters() if p.requires_grad]
        own = [*([x] if over.x else []), *rows.values(), *each]
        if not own and not shared:
            raise ValueError(
                f"optimise: got {over} and nothing to change, expected at least one variable; turn one on in "
                "over=Over(...) and pass what it names"
            )
        return cls(x, cond, noise, controls, rows, own, shared)

    @property
    def variables(self) -> list[Tensor]:
        """All that is optimised."""
        return self.own + self.shared

    def entering(self) -> dict[str, Any]:
        """x, cond, noise and controls as `sample` takes them: slots and steps first again."""
        turned = {name: value.movedim(0, 1) for name, value in self.rows.items()}
        return {"x": self.x, "cond": self.cond, "noise": self.noise, "controls": self.controls, **turned}

    def copied(self) -> tuple[dict[str, Any], list[Tensor]]:
        """What enters, in copies that later steps do not write to, and those of `own` among it."""
        copies = {id(value): value.detach().clone() for value in self.own}
        entering = tree_map(
            lambda leaf: copies.get(id(leaf), leaf),
            {"x": self.x, "cond": self.cond, "noise": self.noise, "controls": self.controls},
            is_leaf=_is_per_step,
        )
        for name, value in self.rows.items():
            entering[name] = copies[id(value)] = copies[id(value)].movedim(0, 1)
        return entering, [copies[id(value)] for value in self.own]

    def joined(self, entered: Sequence[Tensor]) -> Tensor:
        """(B, d), the rows of `own` side by side, from tensors in the shapes in which they enter."""
        turned = {id(value) for value in self.rows.values()}
        pairs = zip(self.own, entered, strict=True)
        return torch.cat([(v.movedim(1, 0) if id(own) in turned else v).flatten(1) for own, v in pairs], 1)

    def parted(self, flat: Tensor) -> list[Tensor]:
        """What `joined` made one of."""
        turned = {id(value) for value in self.rows.values()}
        parts = zip(self.own, flat.split([value[0].numel() for value in self.own], 1), strict=True)
        shaped = [(own, part.reshape(own.shape)) for own, part in parts]
        return [part.movedim(1, 0) if id(own) in turned else part for own, part in shaped]

    def detached(self) -> dict[str, Any]:
        """The same without graphs."""
        return tree_map(_free, self.entering(), is_leaf=_is_per_step)


def _check_differentiable(cond: Any) -> None:
    """Raise ValueError where nothing in `cond` can be descended in."""
    found = [leaf for leaf in leaves(cond) if leaf.is_floating_point()]
    if not found:
        kinds = sorted({str(leaf.dtype) for leaf in leaves(cond)})
        raise ValueError(
            f"optimise over cond: got {f'tensors of {kinds}' if kinds else described(cond)}, expected floating point "
            "conditioning; pass the embedding of a label instead of the label, or over=Over(cond=False)"
        )


def _check_rows(cond: Any, batch: int) -> None:
    """Raise ValueError unless every tensor that moves in `cond` has a row for each sample."""
    for leaf in tree_leaves(cond, is_leaf=_is_per_step):
        moves = isinstance(leaf, Tensor) and leaf.requires_grad
        if isinstance(leaf, PerStep) or moves and leaf.shape[:1] != (batch,):
            raise ValueError(
                f"cond_rows: got {described(leaf)}, expected tensors ({batch}, ...), a row for each sample, the same "
                "at every step; expand them, or leave cond_rows out where samples share them"
            )


def clip_(own: Sequence[Tensor | None], shared: Sequence[Tensor | None], most: float) -> None:
    """Scale gradients in place to norm `most` where they exceed it: row by row over `own` (B, ...), and
    `shared` as a whole.
    """
    rows = [g for g in own if g is not None]
    if rows:
        norm = torch.stack([g.flatten(1).norm(dim=1) for g in rows]).norm(dim=0)
        scale = (most / norm.clamp(min=most)).to(norm)
        for g in rows:
            g.mul_(per_sample(scale, g))
    others = [g for g in shared if g is not None]
    if others:
        norm = torch.stack([g.norm() for g in others]).norm()
        for g in others:
            g.mul_(most / norm.clamp(min=most))


def _is_per_step(leaf: Any) -> bool:
    return isinstance(leaf, PerStep)


def _batch_first(value: Tensor) -> Tensor:
    """(K, B, ...) as a leaf (B, K, ...) of its own."""
    return value.detach().movedim(1, 0).clone(memory_format=torch.contiguous_format).requires_grad_()


def _as_tensor(noise: Noise | Tensor | None, plan: Plan, x: Tensor) -> Tensor:
    """Every draw of `plan` as one tensor (slots, B, ...)."""
    if noise is None or not plan.slots:
        raise ValueError(
            f"optimise over noise: got noise={noise} and a plan with {plan.slots} noise slots, expected a "
            "stochastic plan and a source; take DDPM() and noise=Addressed(seed), or a tensor (slots, B, ...)"
        )
    if isinstance(noise, Tensor):
        return noise
    noise.check(plan.slots, x)
    return torch.stack([noise(slot, x.detach()) for slot in range(plan.slots)])


def _variable(leaf: Any) -> Any:
    """A leaf of conditioning as a variable of its own; what is not a floating point tensor stays as it is."""
    if isinstance(leaf, PerStep):
        return PerStep(leaf.values.detach().clone().requires_grad_())
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.detach().clone().requires_grad_()
    return leaf


def _tensors(cond: Any) -> list[Tensor]:
    """The variables in `cond`."""
    found = (
        leaf.values if isinstance(leaf, PerStep) else leaf for leaf in tree_leaves(cond, is_leaf=_is_per_step)
    )
    return [leaf for leaf in found if isinstance(leaf, Tensor) and leaf.requires_grad]


def _free(leaf: Any) -> Any:
    if isinstance(leaf, PerStep):
        return PerStep(leaf.values.detach())
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
