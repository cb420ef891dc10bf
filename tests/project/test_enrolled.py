"""A public class of a kind that has laws stands in the files that hold them: a forgotten one makes a test fail.

Methods, strategies and guides are swept by themselves (`every_method`, tests/adjoint/test_enrolment.py,
tests/guidance/guides/test_guide.py).
"""

import inspect
import pathlib
import re

import pytest

from pullback import adjoint, guidance, solvers
from pullback.adjoint import Dequantisation, FlowDivergence
from pullback.adjoint.density import Superposition
from pullback.guidance import (
    Aim,
    Averaging,
    Ball,
    Defence,
    Encoder,
    IdentityLoss,
    Interpolation,
    MorphStrategy,
    Objective,
    Operator,
    Protection,
    Realism,
    Recogniser,
    Reward,
    Stepping,
)
from pullback.solvers import (
    DriftMethod,
    EmbeddedPair,
    Model,
    PhaseMethod,
    Preconditioning,
    Process,
    StepControl,
)
from pullback.solvers.labels import Label

TESTS = pathlib.Path(__file__).parents[1]
KINDS = {
    Objective: (guidance.objectives, "guidance/objectives/test_objectives.py"),
    Reward: (guidance.rewards, "guidance/rewards"),
    Recogniser: (guidance.recognition, "guidance/recognition"),
    Operator: (guidance.measurements, "guidance/measurements/test_operators.py"),
    **dict.fromkeys(
        (MorphStrategy, Encoder, Realism, IdentityLoss, Averaging, Interpolation),
        (guidance.morphs, "guidance/morphs"),
    ),
    **dict.fromkeys(
        (Aim, Ball, Defence, Protection, Stepping), (guidance.adversarial, "guidance/adversarial")
    ),
    **dict.fromkeys((Dequantisation, FlowDivergence), (adjoint.density, "adjoint/density")),
    Superposition: (adjoint.density, "adjoint/density/test_superpose.py"),
    Process: (solvers, "solvers/test_conversion.py"),
    Label: (solvers, "solvers"),
    Model: (solvers, "adjoint/test_outside_models.py"),
    PhaseMethod: (solvers, "solvers/test_phase_space.py"),
    DriftMethod: (solvers, "solvers/test_neural.py"),
    Preconditioning: (solvers, "solvers/test_preconditioning.py"),
    **dict.fromkeys((EmbeddedPair, StepControl), (solvers, "solvers/test_adaptive.py")),
}


def missing(kind, classes, text):
    """The concrete classes of a kind that a text does not name."""
    concrete = [c for c in classes if issubclass(c, kind) and c is not kind and not inspect.isabstract(c)]
    assert concrete
    return [c.__name__ for c in concrete if not re.search(rf"\b{c.__name__}\(", text)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_public_class_is_under_the_laws_of_its_kind(kind):
    package, file = KINDS[kind]
    classes = [thing for name in package.__all__ if inspect.isclass(thing := getattr(package, name))]
    files = [TESTS / file] if file.endswith(".py") else sorted((TESTS / file).glob("test_*.py"))
    assert not missing(kind, classes, "".join(path.read_text() for path in files))


def test_the_law_sees_a_forgotten_class():
    forgotten = type("Forgotten", (guidance.Brightness,), {})
    assert missing(Reward, [forgotten], "Brightness()") == ["Forgotten"]
