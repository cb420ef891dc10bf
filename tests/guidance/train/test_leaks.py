"""What an update made is gone when the next one begins."""

import gc
import itertools

import pytest
import torch
from tuning import trainer

from pullback.guidance import DDPO, DRaFT, Objective
from pullback.guidance.train.iteration import iterate


def live() -> int:
    """Tensors that Python knows of."""
    gc.collect()
    return sum(isinstance(found, torch.Tensor) for found in gc.get_objects())


@pytest.mark.parametrize(
    "objective", [DRaFT(), DRaFT(kl=0.1), DDPO(kl=0.1)], ids=["DRaFT", "DRaFT with path KL", "DDPO with KL"]
)
@pytest.mark.parametrize(
    "full", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["LoRA", "all weights"]
)
@pytest.mark.filterwarnings("ignore")
def test_live_tensors_stay_flat_over_60_updates(tmp_path, objective: Objective, full: bool):
    run = trainer(tmp_path, objective, full=full, dtype=torch.float32, evaluate_every=None).run
    counts = []
    for update in range(1, 71):
        iterate(run)
        if update in (10, 40, 70):
            counts.append(live())
    # 30 updates apart: one tensor an update would be 30; fewer is what other tests left behind and gc came round to
    assert all(later - sooner < 15 for sooner, later in itertools.pairwise(counts)), counts
