"""Flow-GRPO: group-relative policy gradients on the flow SDE."""

from dataclasses import dataclass, field

from torch import Tensor

from .advantages import Advantages, OverGroup
from .policy_gradient import PolicyGradient
from .surrogate import ppo_clip_loss


@dataclass(frozen=True, eq=False)
class FlowGRPO(PolicyGradient):
    """PPO's clipped ratio with A = (r - mean_g)/(std_g + 1e-4) within the repeats of one prompt; the last
    step earns no reward, but pays its share of the KL.

    For a plan of FlowSDE(a=0.7), 10 steps, groups of 24. The paper's KL weight (0.04, or 0.01) belongs to
    another penalty, per step, meaned over D and without |dt| (`gaussian_kl`): here beta is in nats, of the
    whole path, and 0 unless given. a = 0.7 is not memoryless: with a KL the optimum is not the tilted law; a
    = sqrt(2) and Scale.NONE make it so.

    Source: Liu et al. 2025, arXiv 2505.05470, section 4 and released code. Arguments, cost: `PolicyGradient`.
    """

    advantages: Advantages = field(default_factory=OverGroup)
    skip_last: bool = True

    def surrogate(self, logprob: Tensor, old: Tensor | None, advantage: Tensor) -> Tensor:
        assert old is not None
        return ppo_clip_loss(logprob, old, advantage, self.clip)
