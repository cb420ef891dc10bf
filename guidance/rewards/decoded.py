"""A reward of pictures as one of latents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .base import Reward, RewardFunction, as_reward


@dataclass(frozen=True, eq=False)
class DecodedReward(Reward):
    """reward(decode(x), context): what the picture of latents x is worth.

    Args:
        decode: (B, ...) to pictures (B, 3, H, W), such as `found.decode` of a diffusers pipeline; where its activations
            are too many, `partial(found.decode, checkpoint=True)`.
        reward: of pictures, in the range that `decode` has: [-1, 1] but for overshoot.

    Cost: one decoding a batch, and its VJP where a gradient is wanted. A decoder whose weights require grad keeps more
    than that needs: freeze it (`lora` has).
    """

    decode: Callable[[Tensor], Tensor]
    reward: Reward | RewardFunction

    @property
    def differentiable(self) -> bool:
        return as_reward(self.reward).differentiable

    def score(self, samples: Tensor, context: Any) -> Tensor:
        return as_reward(self.reward).scored(self.decode(samples), context)
