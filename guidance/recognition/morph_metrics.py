"""How often morphs pass for all of their subjects, as published. Every recogniser has its own figure, (R,)."""

import torch
from torch import Tensor

from ...solvers.checked import checked
from .morph_scores import MorphScores


@checked
def mmpmr_min_max(scores: MorphScores) -> Tensor:
    """Mated morph presentation match rate, (R,): a subject is matched if any of its probes is.

        MMPMR-MinMax = 1/M sum_m [ max_s min_p d_{m,s,p} < threshold ]

    (for similarities: min over subjects of the max over probes, above the threshold). With one probe a subject it is
    the paper's plain MMPMR. A subject without a single comparison is not matched.

    Source: Scherhag et al. 2017, Biometric Systems under Morphing Attacks, BIOSIG, equations for MMPMR and MinMax.
    """
    return scores.matches.any(2).all(1).double().mean(0)


@checked
def mmpmr_prod_avg(scores: MorphScores) -> Tensor:
    """Mated morph presentation match rate, (R,): the chance that a probe drawn from each subject matches.

        MMPMR-ProdAvg = 1/M sum_m prod_s ( 1/P_{m,s} sum_p [ d_{m,s,p} < threshold ] )

    P_{m,s} counts the comparisons that took place; a subject without a single one is not matched.

    Source: Scherhag et al. 2017, Biometric Systems under Morphing Attacks, BIOSIG, equation for ProdAvg.
    """
    attempts = scores.took_place.sum(2)
    return (scores.matches.sum(2) / attempts.clamp(min=1)).double().prod(1).mean(0)


@checked
def rmmr(mmpmr: Tensor, fnmr: Tensor) -> Tensor:
    """Relative morph match rate, of any shape, both the same: 1 + MMPMR - (1 - FNMR) = MMPMR + FNMR.

    1 where morphs are matched as often as genuine images; a low MMPMR of a recogniser that matches hardly anyone does
    not count in its favour.

    Source: Scherhag et al. 2017, Biometric Systems under Morphing Attacks, BIOSIG.
    """
    if mmpmr.shape != fnmr.shape or mmpmr.device != fnmr.device:
        raise ValueError(
            f"fnmr: got shape {tuple(fnmr.shape)} on {fnmr.device}, expected that of mmpmr, {tuple(mmpmr.shape)} on "
            f"{mmpmr.device}: one rate per recogniser"
        )
    return 1 + (mmpmr - (1 - fnmr))


@checked
def morphing_attack_potential(scores: MorphScores) -> Tensor:
    """MAP, (P, R): entry [r - 1, c - 1] is the share of morphs that at least c recognisers match with each subject in
    at least r of its attempts.

        MAP[r, c] = 1/M sum_m [ sum_f [ min_s sum_p [ d_{m,s,p,f} < threshold_f ] >= r ] >= c ]

    Attempts are counted, not averaged: one that failed to be acquired is one that did not match.

    Source: Ferrara, Franco, Maltoni and Busch 2022, Morphing Attack Potential, arXiv 2204.13374; ISO/IEC 20059.
    """
    attempts = scores.matches.sum(2).amin(1)  # (M, R): of the subject that is matched least often
    wanted = torch.arange(1, scores.distances.shape[2] + 1, device=attempts.device)
    fooled = (attempts[:, None] >= wanted[:, None]).sum(2)  # (M, P): recognisers
    many = torch.arange(1, scores.distances.shape[3] + 1, device=attempts.device)
    return (fooled[..., None] >= many).double().mean(0)
