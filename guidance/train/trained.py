"""What is trained: the parameters by name, the optimiser that moves them and their running average."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ...adjoint.replay.parameters import named
from ...solvers import Model
from .average import Average
from .config import TrainConfig
from .processes import Processes
from .sharded import put, whole

GIVEN = ("lr", "betas", "weight_decay")  # AdamW's numbers that config holds


def trainable(model: Model) -> dict[str, Tensor]:
    """The model's parameters that require grad, by name, each once; half precision is widened to float32 in place.

    Raises:
        ValueError: none requires grad.
    """
    found = {
        id(value): (name, value)
        for name, value in named(model, nn.Module.named_parameters)
        if value.requires_grad
    }
    for k, value in enumerate(model.parameters()):  # those that no module holds
        if value.requires_grad:
            found.setdefault(id(value), (f"parameter {k}", value))
    if not found:
        raise ValueError(
            "denoiser: got no parameter that requires grad, expected something to train; use lora(denoiser), "
            "or network.requires_grad_(True)"
        )
    for _, value in found.values():
        if value.dtype in (torch.float16, torch.bfloat16):
            value.data = value.data.float()
    return dict(found.values())


class Trained:
    """The trainable parameters of a model with AdamW on them and, where config asks for it, their average.

    Networks go to this process's device, and every process takes the first one's numbers. Sharded parameters
    (FSDP 2) are left alone: whoever sharded them has dealt them out, and their gradients are averaged in the
    backward pass.

    Attributes:
        weights: the parameters by name.
        average: None unless config.ema is given.
        steps: of the optimiser, made by this process.
    """

    def __init__(self, model: Model, config: TrainConfig, world: Processes) -> None:
        self.weights = trainable(model)
        self.sharded = any(hasattr(value, "device_mesh") for value in self.weights.values())
        if not self.sharded:
            for network in model.networks():
                network.to(world.device)
            world.spread(value.data for value in self.weights.values())
        self.optimizer = torch.optim.AdamW(
            list(self.weights.values()), config.lr, config.betas, weight_decay=config.weight_decay
        )
        self.average = None if config.ema is None else Average(self.weights, config.ema)
        self.steps = 0

    def pull(self, loss: Tensor) -> None:
        """Back-propagate a scalar into the weights and into nothing else.

        Raises:
            ValueError: it is no scalar, or has no graph.
        """
        if not loss.requires_grad or loss.ndim:
            raise ValueError(
                f"loss: got shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}, expected a scalar "
                "with a graph; is the reward differentiable, and do the trained weights enter it?"
            )
        # named, or a reward's own parameters would collect gradients; sharded weights are no leaves of the graph
        loss.backward(inputs=None if self.sharded else list(self.weights.values()))

    def average_gradients(self, world: Processes) -> Tensor:
        """Make each gradient the mean over processes, once for an optimiser step; returns their L2 norm, which
        is sharded where they are.
        """
        for value in self.weights.values():
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
        if not self.sharded:
            world.mean(self.gradients().values())
        return torch.nn.utils.get_total_norm(list(self.gradients().values()))

    def gradients(self) -> dict[str, Tensor]:
        """The gradients by name."""
        return {name: value.grad for name, value in self.weights.items() if value.grad is not None}

    def step(self, norm: Tensor, clip: float | None) -> None:
        """Descend gradients of this L2 norm, scaled down to `clip` where it is larger; fold the average."""
        if clip is not None:
            torch.nn.utils.clip_grads_with_norm_(list(self.weights.values()), clip, norm)
        self.steps += 1
        self.optimizer.step()
        if self.average is not None:
            self.average.update()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within it the average stands in the network, where there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.swapped()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Weights and average, whole: for a file. All processes call it."""
        found = {"weights": {name: whole(value.detach()) for name, value in self.weights.items()}}
        return found if self.average is None else found | {"average": self.average.state()}

    def moments(self) -> dict[str, Any]:
        """The optimiser's state dict, whole: for a file. All processes call it."""
        return tree_map_only(Tensor, whole, self.optimizer.state_dict())

    def load(self, tensors: dict[str, dict[str, Tensor]], moments: dict[str, Any]) -> None:
        """Take back what `tensors` and `moments` gave, but for what config says: a rate changed since is meant."""
        for name, value in self.weights.items():
            put(value, tensors["weights"][name])
        if self.average is not None:
            self.average.load(tensors["average"])
        given = [{name: group[name] for name in GIVEN} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(moments)
        for group, numbers in zip(self.optimizer.param_groups, given, strict=True):
            group.update(numbers)
        if self.sharded:  # the optimiser took whole moments; each must be a share, as its weight is
            for value, state in self.optimizer.state.items():
                for name, kept in state.items():
                    if kept.shape == value.shape:
                        state[name] = torch.zeros_like(value)
                        put(state[name], kept)
