"""A scorer must give the same answer twice, and for one sample whatever its batch mates."""

from torch import nn


def check_settled(network: nn.Module, what: str) -> None:
    """Raise ValueError where `network` would drop out units or normalise over the batch: in train mode."""
    loud = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    if any(isinstance(part, loud) and part.training for part in network.modules()):
        raise ValueError(
            f"{what}: got a network in train mode with dropout or batch norm, expected eval mode; call "
            "network.eval(), or batch mates and chance change the reward"
        )
