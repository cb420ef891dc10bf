"""Trained weights to files that peft and safetensors read, and back."""

from pathlib import Path
from typing import Any

import torch

from ...solvers import Model
from .adapter import require_peft
from .sharded import whole


def save_adapter(denoiser: Model, folder: Path | str) -> None:
    """Write adapter_model.safetensors and adapter_config.json, which `peft.PeftModel.from_pretrained(network,
    folder)` reads.

    In the dtype of training. Sharded parameters are gathered: call it on every process.
    """
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
    from safetensors.torch import load_file

    network: Any = next(denoiser.networks())
    found = load_file(Path(folder) / "adapter_model.safetensors")
    want = require_peft().get_peft_model_state_dict(network)
    if found.keys() != want.keys():
        odd = sorted(found.keys() ^ want.keys())
        raise ValueError(
            f"adapter: got {len(found)} tensors in {folder}, expected the network's {len(want)}; they differ "
            f"in {odd[:3]}; build lora() with the rank and targets of adapter_config.json"
        )
    require_peft().set_peft_model_state_dict(network, found)


def save_weights(denoiser: Model, file: Path | str) -> None:
    """Write the network's whole state dict as safetensors, in the dtype of training; `load_weights` reads it.

    Sharded parameters are gathered: call it on every process.
    """
    from safetensors.torch import save_file

    network: Any = next(denoiser.networks())
    state = {k: whole(v).detach().clone().contiguous() for k, v in network.state_dict().items()}
    if _first_process():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        save_file(state, file)


def load_weights(denoiser: Model, file: Path | str) -> None:
    """Read what `save_weights` wrote; every key must fit."""
    from safetensors.torch import load_file

    network: Any = next(denoiser.networks())
    network.load_state_dict(load_file(file))


def _first_process() -> bool:
    return (
        not torch.distributed.is_available()
        or not torch.distributed.is_initialized()
        or torch.distributed.get_rank() == 0
    )
