"""Float64, seeds, and a suite that also runs from a bare checkout."""

import importlib.util
import pathlib
import sys
import types

if importlib.util.find_spec("pullback") is None:
    root = types.ModuleType("pullback")
    root.__path__ = [str(pathlib.Path(__file__).parents[1])]
    sys.modules["pullback"] = root

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("laws", deadline=None, derandomize=True, max_examples=25,
                                     suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
hypothesis.settings.load_profile("laws")


@pytest.fixture(autouse=True)
def exact_and_seeded():
    """Every test runs in float64 and from one seed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
