"""Parallel under the laws of the other strategies: every case of their sweeps is right, or refused in clear words."""

import importlib.util
import itertools
import pathlib
from typing import Any

import pytest
import torch
from strategies import OWN_LAWS

from pullback.adjoint import Checkpoint, Parallel

STRATEGY = Parallel(tol=0.0)  # until nothing changes
ROOM = pathlib.Path(__file__).parents[1]
FILES = ["brought", "contract", "detached_calls", "finite", "handing_back", "in_place", "never_silent", "reach",
         "wrapped_networks"]  # fmt: skip
LEFT_OUT = {"test_autocast_is_restored"}  # counts the calls of a replay
# what a call on the rows of several steps cannot have, and the laws that bring it, in some of their cases or in all
REFUSED = {
    "reads numbers out of x or t": {
        "test_a_stretch_without_gradient_that_goes_by_time", "test_a_tensor_captured_by_one_call_only",
        "test_a_leaf_of_late_calls_alone", "test_a_captured_tensor_with_a_graph_that_only_a_late_call_reaches",
        "test_a_buffer_that_a_late_call_writes", "test_a_memoised_embedding",
        "test_a_memo_filled_without_a_graph_in_between_is_named", "test_experts_by_time_and_unfrozen_weights",
        "test_a_network_without_a_graph_is_warned_of",
    },
    "reaches leaves only": {
        "test_a_captured_tensor_is_as_good_as_a_declared_one", "test_inputs_that_depend_on_one_another",
        "test_a_hook_runs_once_on_the_whole_gradient", "test_reentrant_checkpoints_are_right_or_named",
        "test_a_captured_tensor_with_a_graph_that_only_a_late_call_reaches",
    },
    "another output of the network for the rows": {
        "test_a_buffer_made_anew_with_the_same_numbers", "test_what_no_record_knows_is_seen_in_the_output",
        "test_written_buffers_are_refused",
    },
    "keep nothing from call to call": {
        "test_features_reused_from_call_to_call", "test_a_network_that_uses_one_tensor_for_all_its_outputs",
    },
    "draws random numbers": {"test_random_numbers_and_written_buffers"},
    "samples that are not finite": {"test_batch_mates_are_what_they_are_without_it"},
    "a hook brings in for each call": {"test_hooks_that_move_weights_are_no_false_alarm"},
}  # fmt: skip


def swept(name):
    """Every case of a law of that file whose strategies have `Checkpoint()` among them: its function and arguments."""
    spec = importlib.util.spec_from_file_location(f"swept_{name}", ROOM / f"test_{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for law in [
        each for key, each in vars(module).items() if key.startswith("test_") and key not in LEFT_OUT
    ]:
        marks = [mark.args for mark in getattr(law, "pytestmark", []) if mark.name == "parametrize"]
        if any(names == "strategy" and Checkpoint() in map(_plain, values) for names, values in marks):
            names = [names.replace(" ", "").split(",") for names, _ in marks if names != "strategy"]
            axes = [list(map(_plain, values)) for names, values in marks if names != "strategy"]
            for chosen in itertools.product(*axes):
                given = dict[str, Any]()
                for keys, value in zip(names, chosen, strict=True):
                    given |= zip(keys, [value] if len(keys) == 1 else value, strict=True)
                yield law, given


def _plain(value: Any) -> Any:
    """The value in a `pytest.param`."""
    if type(value).__name__ != "ParameterSet":
        return value
    return value.values[0] if len(value.values) == 1 else value.values


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_each_law_holds_or_is_refused(name, request):
    held = []
    for law, given in swept(name):
        taken = law.__code__.co_varnames[: law.__code__.co_argcount]
        fixtures = {each: torch.device("cpu") if each == "device" else request.getfixturevalue(each)
                    for each in taken if each not in given and each != "strategy"}  # fmt: skip
        torch.manual_seed(0)
        try:
            law(strategy=STRATEGY, **given, **fixtures)
            held.append(law)
        except (ValueError, RuntimeError, AssertionError) as error:
            said = " ".join(
                [str(error), *getattr(error, "__notes__", [])]
            )  # an assertion: on another refusal
            brought = [words for words, laws in REFUSED.items() if law.__name__ in laws]
            assert "Checkpoint()" in said and any(words in said for words in brought), (law, given, said)
    assert len(held) > 1 or name in ("detached_calls", "finite")


def test_no_refusal_is_of_a_law_that_is_gone():
    text = "".join((ROOM / f"test_{name}.py").read_text() for name in FILES)
    assert all(f"def {law}(" in text for laws in REFUSED.values() for law in laws) and Parallel in OWN_LAWS
