"""Adapters through peft: LoRA on a denoiser, and the same network with it switched off as the reference."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...solvers import Denoiser, Model
from ...solvers.checked import checked
from ...solvers.kinds import check_kind
from ...solvers.pipelines.network import PipelineTurn
from .pipeline_adapter import put_in
from .wrapped import Wrapped, within


def require_peft() -> Any:
    """The module peft; ImportError with a way out where it is not installed."""
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
    least. Of a pipeline's model (`from_diffusers`) all networks are frozen, and the UNet or transformer of
    its loop has the adapters.

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
    peft = require_peft()
    check_kind(
        "lora", denoiser, Denoiser, "a Denoiser; wrap the network: Denoiser(network, process, prediction)"
    )
    network = denoiser.network
    if not isinstance(network, nn.Module | PipelineTurn):
        raise ValueError(
            f"lora: got a denoiser of {type(network).__name__}, expected one of an nn.Module; wrap the "
            "module itself"
        )

    def config(part: nn.Module) -> Any:
        return peft.LoraConfig(
            r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=_targets(part, targets)
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(network, PipelineTurn):
            put_in(network, config, peft.inject_adapter_in_model)
            return denoiser
        adapted = peft.get_peft_model(network, config(network))
    adapted.train(network.training)
    return denoiser.around(adapted)


def _targets(network: nn.Module, targets: str | Sequence[str]) -> str | list[str]:
    """The names of modules that adapters go to, or a pattern of theirs."""
    if targets == "all-linear":
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        return [name for name, module in network.named_modules() if isinstance(module, kinds)]
    return targets if isinstance(targets, str) else list(targets)


class AdapterOff(Wrapped):
    """The model with its adapters switched off for the length of each call: the base as a reference, without a copy.

    Adapters stand as they were when a call is over, and their parameters' `requires_grad` too, so runs of the
    model itself that wait for their backward pass are not disturbed.

    Raises:
        ValueError: `model` has no peft layers.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.layers = _layers(model)
        if not self.layers:
            raise ValueError(
                "AdapterOff: got a model without peft layers, expected adapters; use lora(denoiser), or a "
                "frozen copy as the reference"
            )

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        with self._off():
            return self.model(x, t, cond)

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
            for value, flag in flags:  # peft has made all of an adapter trainable, its frozen weights too
                value.requires_grad_(flag)


def _layers(model: Model) -> list[Any]:
    """The layers with adapters, known by an attribute of peft's own: looking for them does not need peft."""
    return [
        module
        for network in model.networks()
        for module in network.modules()
        if "_disable_adapters" in dir(module)
    ]


@checked
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
