"""Suspect input that is taken without a word, each looked at: why no wrong number comes of it."""

from collections.abc import Iterator

# reason: "call.argument=bad value" of each
_BY_REASON: dict[str, tuple[str, ...]] = {
    "any finite number may stand there": (
        "moments.mean=-1", "moments.start_mean=-1", "response.mean=-1", "LinearReward.offset=-1", "ReFL.ceiling=-1",
        "ClassifierGuidance.scale=-1", "Chip.low=-1", "GaussianPrior.mean=-1",
    ),
    "guidance away from the condition": (
        *(f"{call}.scale=-1" for call in (
            "ClassifierFree", "aidi", "cycle_diffusion", "ddim_inversion", "edit_friendly", "fireflow", "ode_inversion",
            "rf_inversion", "rf_regenerate", "rf_solver", "sdedit",
        )),
        "flow_edit.source_scale=-1", "flow_edit.target_scale=-1",
    ),
    "beyond a subject on the line through both": tuple(
        f"{blend}.weight=-1" for blend in ("InvertedBlend", "LatentBlend", "PixelBlend")
    ),
    "a threshold that everybody or nobody passes": (
        *(f"{call}.threshold=infinity" for call in ("BlackBoxRecogniser", "Embedding", "dlib_face")),
        *(f"{call}.threshold={bad}" for call in ("false_match_rate", "false_non_match_rate")
          for bad in ("-1", "infinity")),
    ),
    "a failed acquisition is NaN": (
        "Comparisons.distances=nan", "MorphScores.distances=nan", "rmmr.fnmr=nan", "rmmr.mmpmr=nan",
    ),
    "a share of the linear part, of either sign": ("ConjugateDDIM.lam=-1",),
    "any whole number is a seed": ("Calibration.of.seed=-1", "bootstrap.seed=-1", "bootstrap_rate.seed=-1"),
    "infinity is no limit": (
        *(f"{call}.cap=infinity" for call in ("DPMSolver", "DPMSolverPP", "DPMSolverV3", "ERSDE", "MRS",
                                                 "SASolver", "SDEDPMSolverPP", "UniPC")),
        *(f"{call}.clip=infinity" for call in ("DDPO", "DPOK", "DanceGRPO", "FlowGRPO", "dno", "doodl", "reno")),
        *(f"{call}.advantage_clip=infinity" for call in ("DDPO", "DanceGRPO", "FlowGRPO")),
        "EDMHeun.s_min=infinity", "EDMHeun.s_max=infinity", "Reversible.tolerance=infinity",
        "IntegralControl.high=infinity",
    ),
    "the limit in which the reward or the measurement does not count": (
        "smc.beta=infinity", "svdd.beta=infinity", "DiffPIR.lam=infinity",
    ),
    "NaN goes through to a NaN that shows: the plain loop and arithmetic, without the checks of `sample`": (
        "run.x=nan", "advance.x=nan", "encode.x=nan", "convert.value=nan", "convert.x=nan", "ess.log_weights=nan",
        "one_step_denoise.noisy=nan", "gaussian_logprob.x=nan", "gaussian_logprob.m=nan", "recover_noise.x0=nan",
        "straight_through.image=nan", "straight_through.purified=nan",
    ),
    "refused as not finite by the run that it enters": (
        "Measurement.y=nan", "Matrix.matrix=nan", "Blur.kernel=nan", "Pair.first=nan", "Pair.second=nan",
    ),
    "refused by the run that it enters: its shape is that of the state": (
        "LinearReward.slope=a scalar", "LinearReward.slope=one axis less", "QuadraticReward.centre=a scalar",
        "QuadraticReward.centre=one axis less",
    ),
    "conditioning is what the network takes; the run refuses what is no tensor with an axis of steps": tuple(
        f"PerStep.values={bad}" for bad in (
            "a string", "the class", "integers", "complex numbers", "nan", "on meta", "a scalar", "one axis less",
        )
    ),
    "whole numbers are numbers": (
        "Measurement.y=integers", "Mask.mask=integers", "Matrix.matrix=integers", "Blur.kernel=integers",
        "LinearReward.slope=integers", "QuadraticReward.centre=integers", "gaussian_logprob.x=integers",
        "gaussian_logprob.m=integers", "Comparisons.distances=integers", "MorphScores.distances=integers",
        "MorphScores.thresholds=integers", "rmmr.fnmr=integers", "rmmr.mmpmr=integers",
    ),
    "complex measurements, as in MRI": (
        "Measurement.y=complex numbers", "Matrix.matrix=complex numbers", "Blur.kernel=complex numbers",
    ),
    "it broadcasts, as documented": (
        "Mask.mask=a scalar", "Mask.mask=one axis less", "ess.log_weights=a scalar", "ess.log_weights=one axis less",
    ),
    "its shape, dtype and device are all that is asked": ("starting_particles.like=nan", "plan_gradient.controls=nan"),
}  # fmt: skip


def _all() -> Iterator[str]:
    for places in _BY_REASON.values():
        yield from places


TAKEN = frozenset(_all())
