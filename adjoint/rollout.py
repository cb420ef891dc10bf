"""Rollout: everything one run of a plan needs, bound together once; and what must not change until its backward pass."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..solvers import Call, Evaluator, GivenNoise, Model, Noise, Program, execute, predict
from .cond import at_step, leaves

Watch = Callable[[int, Tensor], None]
Before = Callable[[int, dict[str, Tensor]], None]


@dataclass(frozen=True, eq=False)
class Rollout:
    """A program with its model, conditioning (`scheduled`: some of it PerStep), noise, controls and watcher.

    `caught` receives the state at the opening of the steps in `at`, before the control.
    """

    program: Program
    model: Model
    cond: Any
    scheduled: bool
    noise: Noise | None
    controls: Tensor | None
    watch: Watch
    at: tuple[int, ...] = ()
    caught: dict[int, Tensor] = field(default_factory=dict)

    def evaluate(self, call: Call, state: Tensor) -> Tensor:
        """The prediction that `call` asks for at `state`."""
        return predict(self.model, call, state, at_step(self.cond, call.step) if self.scheduled else self.cond)

    def before(self, step: int, registers: dict[str, Tensor]) -> None:
        """What happens when a step opens: its state is caught, its control added, the watcher looks on."""
        if step in self.at:
            self.caught[step] = registers["x"]
        if self.controls is not None:
            registers["x"] = registers["x"] + self.controls[step]
        self.watch(step, registers["x"])

    def execute(self, registers: dict[str, Tensor], evaluate: Evaluator | None = None, program: Program | None = None,
                before: Before | None = None) -> dict[str, Tensor]:
        """Run the program; `evaluate` stands in for the model call, `before` for what happens when a step opens."""
        return execute(program or self.program, registers, evaluate or self.evaluate, self.noise, before or self.before)

    def declared(self) -> dict[str, Tensor]:
        """Every tensor that is known to enter, by name."""
        found = {f"cond[{k}]": leaf for k, leaf in enumerate(leaves(self.cond))}
        if self.controls is not None:
            found["controls"] = self.controls
        if isinstance(self.noise, GivenNoise):
            found["noise"] = self.noise.values
        return found | parameters(self.model)


def parameters(model: Model) -> dict[str, Tensor]:
    """The model's tensors by name, each once."""
    found = {id(value): (f"parameter {name}", value) for name, value in named(model, nn.Module.named_parameters)}
    for value in model.parameters():
        found.setdefault(id(value), (f"parameter {len(found)}", value))
    return dict(found.values())


def named(model: Model, what: Callable[[nn.Module], Iterable[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
    """What each of the model's networks names, numbered from the second network on: two may use the same names."""
    for k, network in enumerate(model.networks()):
        for name, value in what(network):
            yield (f"{name} of network {k}" if k else name), value


def sharded(model: Model) -> bool:
    """Whether parameters are spread over processes (FSDP)."""
    return any(hasattr(value, "device_mesh") for value in parameters(model).values())


class Snapshot:
    """Versions of all that enters a run and modes of its modules: a replay after any change would be silently wrong."""

    def __init__(self, rollout: Rollout, tensors: dict[str, Tensor]) -> None:
        self.rollout, self.tensors = rollout, tensors
        self.versions = {name: value._version for name, value in self.tensors.items()}
        self.buffers = {name: (value, value._version) for name, value in self._named(nn.Module.named_buffers)}
        # FSDP swaps parameters and their storage around every call
        self.places = {} if sharded(rollout.model) else self._places()
        self.modes = self._modes()

    def check(self) -> None:
        """Raise RuntimeError naming what changed since."""
        for name, value in self.tensors.items():
            if value._version != self.versions[name]:
                raise RuntimeError(f"{name} {tuple(value.shape)} was changed in place between forward and backward (version "
                                   f"{self.versions[name]} then, {value._version} now); call backward before the optimiser's "
                                   "step, clone before writing, or use Direct()")
        places = self._places() if self.places else {}
        for name in self.places.keys() | places.keys():
            if places.get(name) != self.places.get(name):
                raise RuntimeError(f"parameter {name} was replaced between forward and backward; expected the network as it was; "
                                   "call backward before loading or moving weights, or use Direct()")
        self.check_buffers("between forward and backward")
        for name, now in self._modes().items():
            if self.modes.get(name) != now:
                raise RuntimeError(f"module {name!r} had (train, adapters) {self.modes.get(name)} in the forward pass, {now} now; "
                                   "expected the same in backward; switch modes and adapters after it")

    def check_buffers(self, when: str) -> None:
        """Raise RuntimeError naming a buffer written to since."""
        now = dict(self._named(nn.Module.named_buffers))
        for name, (value, version) in self.buffers.items():
            if now.get(name) is not value or value._version != version:
                raise RuntimeError(f"buffer {name} of the network was changed {when}; a replay would use another value and change "
                                   "it once more (batch normalisation in train mode? DDP's broadcast_buffers?); call eval(), turn "
                                   "the broadcast off, or use Direct()")

    def _modes(self) -> dict[str, tuple[Any, ...]]:
        return {name: (module.training, *(_plain(vars(module).get(flag)) for flag in ADAPTER_FLAGS))
                for name, module in self._named(nn.Module.named_modules)}

    def _places(self) -> dict[str, tuple[int, int]]:
        """Which tensor each parameter is, and where its numbers lie."""
        return {name: (id(value), value.data_ptr()) for name, value in self._named(nn.Module.named_parameters)}

    def _named(self, what: Callable[[nn.Module], Iterable[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
        return named(self.rollout.model, what)


ADAPTER_FLAGS = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling")  # as peft's layers name them


def _plain(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value


def undeclared(out: Tensor, known: list[Tensor], start: int) -> tuple[list[Tensor], bool]:
    """Leaves under `out` not in `known`, and whether it reaches a node older than sequence number `start` past `known`."""
    ids: set[int] = {id(value) for value in known}
    seen: set[Any] = {value.grad_fn for value in known if value.grad_fn is not None} | {None}
    stack: list[Any] = [out.grad_fn]
    found, captured = [], False
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        edges = node.next_functions
        if not edges and hasattr(node, "variable"):
            if id(node.variable) not in ids:
                found.append(node.variable)
        elif node._sequence_nr() < start:
            captured = True
        else:
            stack += [edge for edge, _ in edges]
    return found, captured


def now() -> int:
    """The sequence number that the next node of the autograd graph will carry at least."""
    with torch.enable_grad():
        return torch.zeros((), requires_grad=True).view(()).grad_fn._sequence_nr()  # type: ignore[union-attr]
