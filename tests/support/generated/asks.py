"""What is done with a run: which gradients are asked for, how often, and what happens between the passes."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .subject import Subject

Run = Callable[[Subject, Tensor | None], Tensor]
Change = Callable[[Subject], None]


# what happens between the passes: the right gradient is that of the network as it was


def nothing(subject: Subject) -> None:
    pass


def weights_move(subject: Subject) -> None:
    with torch.no_grad():
        subject.net.enter.weight.mul_(1.5)
        subject.net.leave.weight.mul_(1.5)


def a_weight_is_replaced(subject: Subject) -> None:
    subject.net.leave.weight = nn.Parameter(subject.net.leave.weight.detach() * 1.5)


def weights_are_frozen(subject: Subject) -> None:
    subject.net.requires_grad_(False)


def the_mode_is_switched(subject: Subject) -> None:
    subject.net.train(not subject.net.training)


def a_layer_changes_mode(subject: Subject) -> None:
    for part in subject.net.parts.values():
        part.train(not part.training)


def a_constant_is_written(subject: Subject) -> None:
    subject.net.mask[-1] = 0.9


def a_number_is_set(subject: Subject) -> None:
    subject.net.gain = 1.04


def conditioning_is_written(subject: Subject) -> None:
    leaf = next((v for name, v in subject.roots.items() if name in ("cond", "text", "image")), None)
    if leaf is not None:
        with torch.no_grad():
            leaf.add_(1.0)


CHANGES: tuple[Change, ...] = (
    weights_move, a_weight_is_replaced, weights_are_frozen, the_mode_is_switched, a_layer_changes_mode,
    a_constant_is_written, a_number_is_set, conditioning_is_written,
)  # fmt: skip
UNRECORDED: tuple[Change, ...] = (a_constant_is_written, a_number_is_set)

Answers = dict[str, Tensor | None]


def loss_of(out: Tensor, subject: Subject) -> Tensor:
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).to(out).reshape(out.shape)
    loss = (weights * out + 0.5 * out.square()).sum()
    for kept in subject.net.kept:
        loss = loss + 0.1 * kept.square().sum()
    return loss


def _by_name(roots: dict[str, Tensor], grads: Any, before: str = "") -> Answers:
    return {f"{before}{name}": grad for name, grad in zip(roots, grads, strict=True)}


@dataclass(frozen=True)
class Ask(ABC):
    """Attributes: change: what happens before the last backward pass, in the library's run alone."""

    change: Change = nothing

    @property
    def ordinary(self) -> bool:
        """Whether nothing is done that an error might be the right answer to."""
        return self.change is nothing

    def __str__(self) -> str:
        return f"{type(self).__name__}({'' if self.change is nothing else self.change.__name__})"

    def perform(self, run: Run, subject: Subject, plainly: bool) -> Answers:
        out = run(subject, None)
        answers: Answers = {"sample": out.detach()}
        change = nothing if plainly else self.change
        return answers | self.grads(out, subject, change) | subject.net.seen()

    @abstractmethod
    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        """What is asked for, by name."""


class Backward(Ask):
    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        loss = loss_of(out, subject)
        change(subject)
        loss.backward()
        return {name: root.grad for name, root in subject.roots.items()}


class BackwardTwice(Ask):
    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        loss = loss_of(out, subject)
        loss.backward(retain_graph=True)
        change(subject)
        loss.backward()
        return {name: root.grad for name, root in subject.roots.items()}


class Grads(Ask):
    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        loss = loss_of(out, subject)
        change(subject)
        return _by_name(
            subject.roots, torch.autograd.grad(loss, list(subject.roots.values()), allow_unused=True)
        )


class GradOfOne(Ask):
    """At the first root alone, which is the state's where there is one."""

    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        name, root = next(iter(subject.roots.items()))
        loss = loss_of(out, subject)
        change(subject)
        return {name: torch.autograd.grad(loss, root, allow_unused=True)[0]}


class BackwardAtLast(Ask):
    """`backward(inputs=)` at the last root, a captured leaf where there is one."""

    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        name, root = list(subject.roots.items())[-1]
        loss = loss_of(out, subject)
        change(subject)
        loss.backward(inputs=[root])
        return {name: root.grad}


class OneSampleThenAll(Ask):
    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        name, root = next(iter(subject.roots.items()))
        first = torch.autograd.grad(out[:1].sum(), root, retain_graph=True, allow_unused=True)[0]
        change(subject)
        rest = torch.autograd.grad(loss_of(out, subject), list(subject.roots.values()), allow_unused=True)
        return {f"first {name}": first, **_by_name(subject.roots, rest)}


class LastLayerThenAll(Ask):
    """A first backward pass that needs only a part of what a call has saved."""

    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        first = torch.autograd.grad(out.sum(), subject.net.leave.bias, retain_graph=True)[0]
        change(subject)
        rest = torch.autograd.grad(loss_of(out, subject), list(subject.roots.values()), allow_unused=True)
        return {"first": first, **_by_name(subject.roots, rest)}


class GradOfGrad(Ask):
    """create_graph=True, and a Hessian-vector product."""

    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        roots = list(subject.roots.values())
        found = torch.autograd.grad(loss_of(out, subject), roots, create_graph=True, allow_unused=True)
        change(subject)
        dots = [g.to_dense().abs().square().sum() for g in found if g is not None and g.requires_grad]
        if not dots:
            return _by_name(subject.roots, found)
        again = torch.autograd.grad(torch.stack([d.double() for d in dots]).sum(), roots, allow_unused=True)
        return {**_by_name(subject.roots, found), **_by_name(subject.roots, again, "second order, ")}


class Chained(Ask):
    """Two runs, one after the other, before one backward pass with create_graph."""

    def perform(self, run: Run, subject: Subject, plainly: bool) -> Answers:
        middle = run(subject, None)
        out = run(subject, middle)
        if not plainly:
            self.change(subject)
        roots = list(subject.roots.values())
        found = torch.autograd.grad(loss_of(out, subject), roots, create_graph=True, allow_unused=True)
        return {"sample": out.detach(), **_by_name(subject.roots, found), **subject.net.seen()}

    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        raise NotImplementedError


class Batched(Ask):
    """Several cotangents at once: what `jacobian(vectorize=True)` does."""

    @property
    def ordinary(self) -> bool:
        return False

    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        name, root = next(iter(subject.roots.items()))
        cotangents = torch.stack(
            [torch.ones_like(out), torch.linspace(0, 1, out.numel()).to(out).reshape(out.shape)]
        )
        change(subject)
        found = torch.autograd.grad(out, root, cotangents, is_grads_batched=True, allow_unused=True)
        return {name: found[0]}


class Functional(Ask):
    """torch.func.vjp at the state."""

    def perform(self, run: Run, subject: Subject, plainly: bool) -> Answers:
        x = subject.x.detach().clone()
        made: Any = torch.func.vjp(lambda x: run(subject, x), x)
        out, pull = made
        return {"sample": out.detach(), "x": pull(torch.ones_like(out))[0].detach()}

    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        raise NotImplementedError


class Value(Ask):
    """The sample alone; the caller's tensors are as before."""

    def perform(self, run: Run, subject: Subject, plainly: bool) -> Answers:
        before = subject.x.detach().clone()
        out = run(subject, None)
        return {
            "sample": out.detach(),
            "the caller's x": before if plainly else subject.x.detach().clone(),
            **subject.net.seen(),
        }

    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        raise NotImplementedError


class WritingCallback(Ask):
    """A callback that writes into the state which it is shown."""

    @property
    def ordinary(self) -> bool:
        return False

    def perform(self, run: Run, subject: Subject, plainly: bool) -> Answers:
        def write(step: int, time: Any, x: Any) -> None:
            for leaf in tree_leaves(x):
                leaf.mul_(0.5)

        if not plainly:
            subject.callback = write
        return super().perform(run, subject, plainly)

    def grads(self, out: Tensor, subject: Subject, change: Change) -> Answers:
        loss_of(out, subject).backward()
        return {name: root.grad for name, root in subject.roots.items()}


ASKS: tuple[Ask, ...] = (
    Backward(), Backward(), BackwardTwice(), Grads(), Grads(), GradOfOne(), BackwardAtLast(), OneSampleThenAll(),
    LastLayerThenAll(),     GradOfGrad(), Chained(), Batched(), Functional(), Value(), WritingCallback(),
)  # fmt: skip
# kinds of ask that something may happen in the middle of
CHANGED: tuple[Ask, ...] = tuple(
    kind(change) for change in CHANGES for kind in (Backward, Grads, OneSampleThenAll, LastLayerThenAll)
)
