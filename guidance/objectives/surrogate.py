"""Policy-gradient losses of one step: plain score function, PPO's pessimistic clip, DPOK's clamp. All (B,)."""

from torch import Tensor


def score_loss(logprob: Tensor, advantage: Tensor) -> Tensor:
    """-A log p: its gradient is the score-function (REINFORCE) estimate. DDPO-SF, Black et al. 2023, arXiv
    2305.13301, eq. 4.
    """
    return -advantage.detach() * logprob


def ppo_clip_loss(logprob: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-min(rho A, clip(rho, 1 - c, 1 + c) A), rho = p/p_old: no gain from leaving the band, full gradient for
    coming back.

    Source: Schulman et al. 2017, arXiv 1707.06347, eq. 7; DDPO-IS, arXiv 2305.13301, section 4.3.

    Args:
        logprob, old: (B,), both sums or both means over D (`gaussian_logprob`); the clip is of that ratio.
        clip: c > 0; the papers' 1e-4 belongs to means.
    """
    _check(clip)
    ratio, advantage = (logprob - old.detach()).exp(), advantage.detach()
    return -(ratio * advantage).minimum(ratio.clamp(1 - clip, 1 + clip) * advantage)


def clamped_loss(logprob: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-clip(rho, 1 - c, 1 + c) A: outside the band the gradient is zero whatever the sign of A, so nothing leads back.

    Source: DPOK's released code (Fan et al. 2023, arXiv 2305.16381).
    """
    _check(clip)
    return -(logprob - old.detach()).exp().clamp(1 - clip, 1 + clip) * advantage.detach()


def _check(clip: float) -> None:
    if not clip > 0:
        raise ValueError(
            f"clip: got {clip}, expected > 0; take the score-function loss for an update without a ratio"
        )
