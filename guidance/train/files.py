"""Trained weights to files that peft and safetensors read, and back."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...solvers import Denoiser, Model
from ...solvers.pipelines.network import PipelineTurn
from .adapter import require_peft
from .pipeline_adapter import adapted, read_lora, save_lora
from .sharded import whole


def save_adapter(denoiser: Model, folder: Path | str) -> None:
    """Write adapter_model.safetensors and adapter_config.json, which `peft.PeftModel.from_pretrained(network,
    folder)` reads; of a pipeline's model what a fresh `pipe.load_lora_weights(folder)` reads.

    In the dtype of training. Sharded parameters are gathered: call it on every process.
    """
    turn = _turn(denoiser)
    if turn is not None:
        save_lora(turn, folder, _first_process(), _adapter)
        return
    network: Any = next(denoiser.networks())
    network.save_pretrained(
        str(folder),
        state_dict={k: whole(v) for k, v in network.state_dict().items()},
        is_main_process=_first_process(),
    )


def load_adapter(denoiser: Model, folder: Path | str) -> None:
    """Read what `save_adapter` or peft wrote into the adapters of `denoiser`.

    Raises:
        ValueError: keys that the adapters do not have, or lack: nothing is skipped in silence.
    """
    turn = _turn(denoiser)
    if turn is None:
        network: Any = next(denoiser.networks())
        _take(network, _read(Path(folder) / "adapter_model.safetensors"), folder)
        return
    found = read_lora(turn, folder)
    for name, network in adapted(turn).items():
        _take(network, found[name], folder)


def _take(network: Any, found: dict[str, Tensor], folder: Path | str) -> None:
    """Put the tensors into the network's adapters, all of them."""
    want = require_peft().get_peft_model_state_dict(network)
    if found.keys() != want.keys():
        odd = sorted(found.keys() ^ want.keys())
        raise ValueError(
            f"adapter: got {len(found)} tensors in {folder}, expected the network's {len(want)}; they differ "
            f"in {odd[:3]}; build lora() with the rank and targets of adapter_config.json"
        )
    require_peft().set_peft_model_state_dict(network, found)


def _adapter(network: Any) -> dict[str, Tensor]:
    """The tensors of its adapter, whole."""
    found = require_peft().get_peft_model_state_dict(network)
    return {name: whole(value) for name, value in found.items()}


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(file)


def _turn(denoiser: Model) -> PipelineTurn | None:
    """The turn of a pipeline's loop that the model calls."""
    network = denoiser.network if isinstance(denoiser, Denoiser) else None
    return network if isinstance(network, PipelineTurn) else None


def save_weights(denoiser: Model, file: Path | str) -> None:
    """Write the network's whole state dict as safetensors, in the dtype of training; `load_weights` reads it.

    Sharded parameters are gathered: call it on every process.
    """
    from safetensors.torch import save_file

    network = _trained(denoiser)
    state = {k: whole(v).detach().clone().contiguous() for k, v in network.state_dict().items()}
    if _first_process():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        save_file(state, file)


def load_weights(denoiser: Model, file: Path | str) -> None:
    """Read what `save_weights` wrote; every key must fit."""
    _trained(denoiser).load_state_dict(_read(Path(file)))


def _trained(denoiser: Model) -> nn.Module:
    """The network that is trained, the first where none or several are: a pipeline may have a ControlNet too."""
    networks = list(denoiser.networks())
    trained = [each for each in networks if any(value.requires_grad for value in each.parameters())]
    return trained[0] if len(trained) == 1 else networks[0]


def _first_process() -> bool:
    return (
        not torch.distributed.is_available()
        or not torch.distributed.is_initialized()
        or torch.distributed.get_rank() == 0
    )
