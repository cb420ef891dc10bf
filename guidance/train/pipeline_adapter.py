"""LoRA on a diffusers pipeline's networks, in files that `pipe.load_lora_weights` reads. Never imports diffusers."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...solvers.pipelines.network import PipelineTurn
from .sharded import whole

NAME = "default"  # of the adapter, peft's own
WEIGHTS = "pytorch_lora_weights.safetensors"  # diffusers' name


def adapted(turn: PipelineTurn) -> dict[str, Any]:
    """The networks of the loop that adapters go to, by their names in the pipeline: those that its
    `save_lora_weights` takes (a UNet or a transformer, no ControlNet), all with `add_adapter` where it has none.
    """
    pipe = turn.loops.pipe
    found = {name: getattr(pipe, name, None) for name in sorted(turn.code.source.parts)}
    able = {name: part for name, part in found.items() if hasattr(part, "add_adapter")}
    if hasattr(pipe, "save_lora_weights"):
        takes = inspect.signature(pipe.save_lora_weights).parameters
        able = {name: part for name, part in able.items() if f"{name}_lora_layers" in takes}
    if not able:
        raise ValueError(
            f"lora: got {turn.code.source.name}, none of whose {', '.join(found)} takes adapters, expected a UNet or "
            "a transformer with add_adapter; train its weights: unet.requires_grad_(True)"
        )
    return able


def put_in(turn: PipelineTurn, config: Callable[[nn.Module], Any]) -> None:
    """Freeze everything of the pipeline, text encoders and VAE too, and add adapters of `config(network)`."""
    networks = adapted(turn)
    for part in vars(turn.loops.pipe).values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    for network in networks.values():
        network.add_adapter(config(network), NAME)


def prefix(turn: PipelineTurn, name: str) -> str:
    """What the names of a network's adapters begin with in the pipeline's file."""
    return f"{name}." if hasattr(turn.loops.pipe, "save_lora_weights") else ""


def save_lora(
    turn: PipelineTurn, folder: Path | str, first: bool, state: Callable[[Any], dict[str, Tensor]]
) -> None:
    """Write the adapters as `pipe.load_lora_weights(folder)` reads them, alpha and rank included; where the pipeline
    has no such function, as `network.load_lora_adapter(folder, prefix=None)` does.

    Args:
        first: whether this process writes. state: network -> its adapter's tensors.
    """
    pipe, networks = turn.loops.pipe, adapted(turn)
    if not hasattr(pipe, "save_lora_weights"):
        for network in networks.values() if first else ():
            network.save_lora_adapter(str(folder), adapter_name=NAME)
        return
    given: dict[str, Any] = {}
    for name, network in networks.items():
        given[f"{name}_lora_layers"] = {key: whole(value) for key, value in state(network).items()}
        given[f"{name}_lora_adapter_metadata"] = network.peft_config[NAME].to_dict()
    takes = inspect.signature(pipe.save_lora_weights).parameters
    pipe.save_lora_weights(
        str(folder), is_main_process=first, **{name: value for name, value in given.items() if name in takes}
    )
