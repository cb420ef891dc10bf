"""Float64, seeds, and a suite that also runs from a bare checkout."""

import gc
import importlib.util
import pathlib
import sys
from collections.abc import Callable

import hypothesis
import pytest
import torch
from beartype import BeartypeConf
from beartype.claw import beartype_package
from beartype.roar import BeartypeClawDecorWarning

ROOT = pathlib.Path(__file__).parents[1]
if importlib.util.find_spec("pullback.solvers") is None:  # not installed: its folders lie beside the package
    sys.path.insert(0, str(ROOT))
    import pullback

    pullback.__path__.append(str(ROOT))

torch.set_num_threads(1)
if not torch.cuda.is_available():
    # torch.manual_seed would keep the whole stack for a GPU that is not there: a millisecond for every seed
    torch.cuda.manual_seed_all = lambda seed: None
hypothesis.settings.register_profile(
    "laws",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("laws")


def pytest_addoption(parser):
    parser.addoption(
        "--installed", action="store_true", help="refuse a pullback that is not an installed package"
    )


def pytest_configure(config):
    """Every call of the library is held to its annotations while the tests run; but for the search for modules, which
    walks through the wrappers that this makes and would take half of the suite's time.
    """
    if config.getoption("--installed"):
        found = importlib.util.find_spec("pullback")
        places = list(found.submodule_search_locations or ()) if found else []
        if len(places) != 1 or "site-packages" not in pathlib.Path(places[0]).parts:
            raise pytest.UsageError(f"--installed: got pullback from {places}, expected it in site-packages")
    skipped = ("pullback.solvers.modules_behind",)
    # here, not above: who imports this file alone does not have tests/support
    from checked_once import check_nested_functions_once

    conf = BeartypeConf(
        claw_is_pep526=False,
        claw_skip_package_names=skipped,
        violation_type=TypeError,
        warning_cls_on_decorator_exception=BeartypeClawDecorWarning,  # what the line below would put there
    )
    check_nested_functions_once(conf)
    beartype_package("pullback", conf=conf)


def pytest_collection_modifyitems(items):
    """The mark `device` is on every law that takes the fixture."""
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.device)


def set_aside():
    """What is there by now stays until the end, or until nothing refers to it: the garbage collector need not walk
    through it again and again.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_finish():
    set_aside()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    """Where a law lays its tensors: the CPU, and CUDA where there is one. Nothing else may be skipped."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def live() -> Callable[[], int]:
    """How many tensors there are that were made since: what other tests left behind may go at any time."""
    set_aside()  # `get_objects` passes over what is there by now

    def count() -> int:
        gc.collect()
        return sum(isinstance(found, torch.Tensor) for found in gc.get_objects())

    return count


@pytest.fixture(autouse=True)
def exact_and_seeded():
    """Every test runs in float64 and from one seed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
