"""LoRA on a diffusers pipeline's networks, in files that `pipe.load_lora_weights` reads. Never imports diffusers."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...solvers.pipelines.network import PipelineTurn

ADAPTER = "default"  # its name, peft's own
FILE = "pytorch_lora_weights.safetensors"  # diffusers' name
DENOISERS = ("unet", "transformer", "prior")


def adapted(turn: PipelineTurn) -> dict[str, Any]:
    """The networks of the loop that adapters go to, by their names in the pipeline: those that its
    `save_lora_weights` takes (a UNet or a transformer, no ControlNet); where it has none, its denoiser.
    """
    pipe = turn.loops.pipe
    found = {name: getattr(pipe, name, None) for name in sorted(turn.code.source.parts)}
    takes = inspect.signature(pipe.save_lora_weights).parameters if by_pipeline(turn) else ()
    able = {
        name: part
        for name, part in found.items()
        if isinstance(part, nn.Module) and (f"{name}_lora_layers" in takes if takes else name in DENOISERS)
    }
    if not able:
        raise ValueError(
            f"lora: got {turn.code.source.name}, whose loop calls {', '.join(found)}, expected one of "
            f"{', '.join(DENOISERS)}; train weights of yours: network.requires_grad_(True)"
        )
    return able


def by_pipeline(turn: PipelineTurn) -> bool:
    """Whether the pipeline saves and loads adapters itself; peft does for the others."""
    return hasattr(turn.loops.pipe, "save_lora_weights")


def put_in(turn: PipelineTurn, config: Callable[[nn.Module], Any], inject: Callable[..., Any]) -> None:
    """Freeze everything of the pipeline, text encoders and VAE too, and add adapters of `config(network)`.

    Args:
        inject: `peft.inject_adapter_in_model`, for networks that have no `add_adapter`.
    """
    networks = adapted(turn)
    for part in vars(turn.loops.pipe).values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    for network in networks.values():
        if hasattr(network, "add_adapter"):
            network.add_adapter(config(network), ADAPTER)
        else:
            inject(config(network), network, ADAPTER)


def save_lora(
    turn: PipelineTurn, folder: Path | str, first: bool, state: Callable[[Any], dict[str, Tensor]]
) -> None:
    """Write the adapters as `pipe.load_lora_weights(folder)` reads them, rank and alpha included; where the pipeline
    has no such function, as `peft.PeftModel.from_pretrained(network, folder)` does.

    Args:
        first: whether this process writes. state: network -> its adapter's tensors; all processes call it.
    """
    networks = adapted(turn)
    tensors = {name: state(network) for name, network in networks.items()}
    configs = {name: network.peft_config[ADAPTER] for name, network in networks.items()}
    if by_pipeline(turn):
        save = turn.loops.pipe.save_lora_weights
        given = {f"{name}_lora_layers": value for name, value in tensors.items()}
        given |= {f"{name}_lora_adapter_metadata": config.to_dict() for name, config in configs.items()}
        takes = inspect.signature(save).parameters
        save(str(folder), is_main_process=first, **{name: given[name] for name in given if name in takes})
    elif first:
        from safetensors.torch import save_file

        (name,) = networks
        configs[name].save_pretrained(str(folder))
        prefixed = {f"base_model.model.{key}": value.contiguous() for key, value in tensors[name].items()}
        save_file(prefixed, Path(folder) / "adapter_model.safetensors")


def read_lora(turn: PipelineTurn, folder: Path | str) -> dict[str, dict[str, Tensor]]:
    """What `save_lora` wrote, by network."""
    from safetensors.torch import load_file

    file = FILE if by_pipeline(turn) else "adapter_model.safetensors"
    found = load_file(Path(folder) / file)
    starts = {name: f"{name}." if by_pipeline(turn) else "base_model.model." for name in adapted(turn)}
    return {
        name: {key.removeprefix(start): value for key, value in found.items() if key.startswith(start)}
        for name, start in starts.items()
    }
