"""DDPO: policy gradients on the denoising chain."""

import enum
from dataclasses import dataclass

from torch import Tensor

from .policy_gradient import PolicyGradient
from .surrogate import ppo_clip_loss, score_loss


class Estimator(enum.Enum):
    """SF: score function, one update per rollout. IS: importance-sampled and clipped, several updates."""

    SF = "score function"
    IS = "importance sampling"


@dataclass(frozen=True, eq=False)
class DDPO(PolicyGradient):
    """sum_k -A log p_k (SF) or PPO's clipped ratio (IS), gradients accumulated over all steps of a sample.

    Defaults are the paper's with its released code: IS, clip 1e-4 of the mean over D, |A| <= 5, no KL. The
    paper's prompts use advantages=PerPrompt(32, 16), 50 steps of DDIM(eta=1), guidance 5, and 2 to 4
    minibatches (updates) per rollout.

    Source: Black et al. 2023, arXiv 2305.13301, section 4.3 and appendix. Arguments, cost: `PolicyGradient`.
    """

    mode: Estimator = Estimator.IS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.mode, Estimator):
            raise ValueError(f"DDPO: got mode={self.mode!r}, expected Estimator.SF or Estimator.IS")
        if self.mode is Estimator.SF and (self.passes > 1 or self.minibatches > 1):
            raise ValueError(
                f"DDPO: got passes={self.passes}, minibatches={self.minibatches} for the score function, "
                "expected 1 and 1: it needs samples of the present policy; use Estimator.IS for several "
                "updates"
            )

    @property
    def needs_old(self) -> bool:
        return self.mode is Estimator.IS

    def surrogate(self, logprob: Tensor, old: Tensor | None, advantage: Tensor) -> Tensor:
        return (
            score_loss(logprob, advantage)
            if old is None
            else ppo_clip_loss(logprob, old, advantage, self.clip)
        )
