"""DanceGRPO: group-relative policy gradients on some of the steps."""

from dataclasses import dataclass, field

from torch import Tensor

from .advantages import Advantages, OverGroup
from .policy_gradient import PolicyGradient
from .surrogate import ppo_clip_loss


@dataclass(frozen=True, eq=False)
class DanceGRPO(PolicyGradient):
    """As `FlowGRPO`, on a random 60 % of the steps, weighted up for the rest; the last pays its KL every time.

    For a plan of ConstantFlowSDE(eta=0.3), 16 steps, groups of 12. The paper starts a group's repeats from
    the same noise: give equal `Batch.x` to equal groups.

    Source: Xue et al. 2025, arXiv 2505.07818, section 3 and released code. Arguments, cost: `PolicyGradient`.
    """

    advantages: Advantages = field(default_factory=OverGroup)
    fraction: float = 0.6
    skip_last: bool = True

    def surrogate(self, logprob: Tensor, old: Tensor | None, advantage: Tensor) -> Tensor:
        assert old is not None
        return ppo_clip_loss(logprob, old, advantage, self.clip)
