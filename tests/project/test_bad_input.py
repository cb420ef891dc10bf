"""Bad input to every public call works, or is refused in words before the network is called.

In a process of its own: the type checks that the test session puts around the library would answer in its place.
`python -m generated.bad_input` in tests/support prints what there is to mend.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from generated.public_calls import LEFT_OUT, takes_arguments, uses
from generated.taken import TAKEN

SUPPORT = pathlib.Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """What came of all attempts."""
    code = "import conftest; from generated.bad_input import main; main()"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(SUPPORT), str(SUPPORT.parent), *sys.path])}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout)


def test_every_public_function_is_enrolled():
    named = {use.name for use in uses()}
    assert set(takes_arguments()) == (named | LEFT_OUT.keys()) & set(takes_arguments())
    assert not named & LEFT_OUT.keys()


def test_the_table_of_good_uses_is_good(made):
    assert not made["mistakes"] and made["attempts"] > 3000


def test_bad_input_is_refused_in_words(made):
    assert not made["findings"], "\n".join(made["findings"])


def test_what_is_taken_in_silence_has_been_looked_at(made):
    """A suspect value that is newly taken is to be refused, or gets its reason in the table."""
    found = set(made["taken"])
    assert found == TAKEN, f"taken: {sorted(found - TAKEN)}; refused by now: {sorted(TAKEN - found)}"
