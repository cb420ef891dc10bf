"""Adapters through peft: LoRA on a denoiser, the same network with it switched off as the reference, files to
and from peft.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...solvers import ClassifierFree, Denoiser, Model


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise ImportError(
            "peft: got none, expected it for adapters; pip install 'pullback[train]'"
        ) from error
    return peft


def lora(
    denoiser: Denoiser,
    rank: int = 8,
    alpha: float | None = None,
    targets: str | Sequence[str] = "all-linear",
    seed: int = 0,
) -> Denoiser:
    """Low-rank adapters W + (alpha / rank) B A on the network's modules; B starts at 0, so nothing changes yet.

    The network is frozen and its modules are replaced in place; what is trained are A and B, in float32 at
    least.

    Args:
        rank: of B A.
        alpha: default `rank`, a factor of 1.
        targets: names (or a pattern) of linear and convolution modules, as peft's `target_modules`.
            "all-linear" takes every linear and convolution module.
        seed: of A, so that all processes start alike; the global generator is left alone.

    Raises:
        ImportError: peft is missing. ValueError: no module fits `targets` (peft's message), no nn.Module
            behind `denoiser`.

    Source: Hu et al. 2021, arXiv 2106.09685.
    """
    peft = _peft()
    network = denoiser.network
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"lora: got a denoiser of {type(network).__name__}, expected one of an nn.Module; wrap the "
            "module itself"
        )
    if targets == "all-linear":
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        targets = [name for name, module in network.named_modules() if isinstance(module, kinds)]
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(network, config)
    adapted.train(network.training)
    return Denoiser(adapted, denoiser.process, denoiser.prediction, denoiser.dtype)


class AdapterOff(Model):
    """The model with its adapters switched off for the length of each call: the base as a reference, without a copy.

    Adapters stand as they were when a call is over, and their parameters' `requires_grad` too, so runs of the
    model itself that wait for their backward pass are not disturbed.

    Raises:
        ValueError: `model` has no peft layers.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.process, self.prediction = model, model.process, model.prediction
        self.layers = _layers(model)
        if not self.layers:
            raise ValueError(
                "AdapterOff: got a model without peft layers, expected adapters; use lora(denoiser), or a "
                "frozen copy as the reference"
            )

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        with self._off():
            return self.model(x, t, cond)

    def parameters(self) -> Iterator[Tensor]:
        yield from self.model.parameters()

    def networks(self) -> Iterator[nn.Module]:
        yield from self.model.networks()

    @contextlib.contextmanager
    def _off(self) -> Iterator[None]:
        switched = [layer for layer in self.layers if not layer.disable_adapters]
        flags = [(value, value.requires_grad) for layer in switched for value in layer.parameters()]
        try:
            for layer in switched:
                layer.enable_adapters(False)
            yield
        finally:
            for layer in switched:
                layer.enable_adapters(True)
            for value, flag in flags:
                value.requires_grad_(flag)


def _layers(model: Model) -> list[Any]:
    return [
        module
        for network in model.networks()
        for module in network.modules()
        if "_disable_adapters" in dir(module)
    ]


def reference_of(model: Model) -> Model:
    """The model as it is now, frozen: its adapters switched off where it has some, else a copy in eval mode."""
    if _layers(model):
        return within(model, AdapterOff)
    frozen = copy.deepcopy(model)
    for network in frozen.networks():
        network.requires_grad_(False).eval()
    for value in frozen.parameters():
        value.requires_grad_(False)
    return frozen


def within(model: Model, wrap: Callable[[Model], Model]) -> Model:
    """`wrap` around what is guided rather than around the guidance, which objectives must be able to see."""
    if isinstance(model, ClassifierFree):
        return ClassifierFree(within(model.denoiser, wrap), model.scale, model.null)
    return wrap(model)


class Autocast(Model):
    """The model with its network calls under autocast; state in and prediction out keep their dtype."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        self.model, self.dtype, self.process, self.prediction = model, dtype, model.process, model.prediction

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        with torch.autocast(x.device.type, self.dtype):
            return self.model(x, t, cond).to(x.dtype)

    def parameters(self) -> Iterator[Tensor]:
        yield from self.model.parameters()

    def networks(self) -> Iterator[nn.Module]:
        yield from self.model.networks()


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
    want = _peft().get_peft_model_state_dict(network)
    if found.keys() != want.keys():
        odd = sorted(found.keys() ^ want.keys())
        raise ValueError(
            f"adapter: got {len(found)} tensors in {folder}, expected the network's {len(want)}; they differ "
            f"in {odd[:3]}; build lora() with the rank and targets of adapter_config.json"
        )
    _peft().set_peft_model_state_dict(network, found)


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


def whole(value: Tensor) -> Tensor:
    """A sharded tensor gathered (by all processes together), any other as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # pyright: ignore[reportAttributeAccessIssue]


def _first_process() -> bool:
    return (
        not torch.distributed.is_available()
        or not torch.distributed.is_initialized()
        or torch.distributed.get_rank() == 0
    )
