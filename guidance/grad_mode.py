"""Grad mode: what descends by gradients cannot under `no_grad`, whatever the caller's loss is."""

import torch


def check_grad_mode(asker: str) -> None:
    """Raise ValueError under torch.no_grad() and inference_mode()."""
    if not torch.is_grad_enabled():
        raise ValueError(
            f"{asker}: got a call under torch.no_grad() or inference_mode(), expected grad mode on, since it takes "
            "gradients itself; call it outside of it"
        )


def check_no_inference(asker: str) -> None:
    """Raise ValueError under inference_mode(), where even enable_grad() makes no graph."""
    if torch.is_inference_mode_enabled():
        raise ValueError(
            f"{asker}: got a call under torch.inference_mode(), expected grad mode or no_grad, since it takes "
            "gradients itself; call it outside of it"
        )
