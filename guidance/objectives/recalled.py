"""Recalled: what the policy of the rollout made of the visited steps, noted before any update moves it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .chain import Chain, reference_chain, samples_of
from .kl import KL, to_go
from .likelihood import gaussian_kl, gaussian_logprob
from .objective import Experience, Policy
from .peers import World


@dataclass(frozen=True, eq=False)
class Recalled:
    """Figures of every step k and sample; None what nobody asked for.

    Attributes:
        logprob: (N, B) log p_k of the step that was taken.
        kl: (N, B) KL_k to the reference.
        base: (N, B, ...) the reference's means.
        later: (N, B) L_k - mean L_k, L_k = sum_{j > k} KL_j the KL still to come, the mean over the samples of
            all processes.
    """

    logprob: Tensor | None = None
    kl: Tensor | None = None
    base: Tensor | None = None
    later: Tensor | None = None


def recall(
    policy: Policy,
    experience: Experience,
    parts: list[Tensor],
    world: World,
    *,
    logprob: bool,
    penalty: KL | None,
    mean: bool,
) -> Recalled:
    """Log-probabilities where `logprob`, divided by D where `mean`; KLs and base means where there is a
    `penalty`, `later` for that of the path.

    Computed by the minibatches `parts`, in the shapes of the updates, so that the first ratio p/p_old is 1 to
    the last bit. Cost: a call of the policy a step, with a penalty one of the reference.
    """
    if not logprob and penalty is None:
        return Recalled()
    visits, size = experience.states, len(experience.reward)
    assert visits is not None
    steps = len(visits) - 1
    old, kl = visits.new_zeros(steps, size), visits.new_zeros(steps, size)
    base = torch.zeros_like(visits[:steps]) if penalty is not None else None
    with torch.no_grad():
        for part in parts:
            states, cond = samples_of(experience, part)
            chain = Chain.of(policy.plan, policy.denoiser, states[0], cond)
            frozen = None if penalty is None else reference_chain(policy, states[0], cond)
            for k in chain.transitions.stochastic:
                m, s = chain.mean(states, k), chain.std(k)
                if logprob:
                    old[k, part] = gaussian_logprob(states[k + 1], m, s, mean).to(old.dtype)
                if frozen is not None and base is not None:
                    base[k, part] = frozen.mean(states, k)
                    kl[k, part] = gaussian_kl(m, base[k, part], s).to(kl.dtype)
    if penalty is None:
        return Recalled(old)
    later = None
    if penalty is KL.PATH:
        later = to_go(kl)
        later = later - world.whole(later.T).mean(0)[:, None]
    return Recalled(old if logprob else None, kl, base, later)
