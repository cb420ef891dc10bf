"""The judge: a run is right, or an error says clearly what was got, what was expected and what to change."""

import pathlib
import re
import traceback
import warnings
from dataclasses import dataclass
from enum import Enum

import torch
from strategies import ESTIMATES
from torch import Tensor

from pullback import adjoint, guidance, solvers
from pullback.adjoint import Checkpoint, Direct, Mechanism, Truncated

from .asks import Answers
from .cases import Case
from .containers import module
from .ingredients import AutocastIsland, BatchNorm, LateExpert
from .subject import Subject, build

OURS = [pathlib.Path(str(layer.__file__)).resolve().parent for layer in (solvers, adjoint, guidance)]


class Verdict(Enum):
    RIGHT = "right"
    REFUSED = "a clear error"
    SILENT = "a wrong number without a word"
    NEEDLESS = "an error where a plain loop is right and nothing has happened to it"
    UNCLEAR = "an error that is raw or does not say what to do"
    UNJUDGED = "the plain loop cannot do it either"


@dataclass(frozen=True)
class Judgement:
    case: Case
    verdict: Verdict
    told: str

    @property
    def fault(self) -> bool:
        return self.verdict in (Verdict.SILENT, Verdict.UNCLEAR, Verdict.NEEDLESS)

    @property
    def symptom(self) -> tuple[Verdict, str]:
        """What two cases with the same cause have in common."""
        return self.verdict, self.told.split(":")[0] if self.verdict is Verdict.SILENT else self.told[:70]

    def __str__(self) -> str:
        return f"{self.verdict.name}: {self.case}\n    {self.told}"


def judge(case: Case) -> Judgement:
    """Make the run by the library and by a plain loop, and compare all that was asked for."""
    try:
        want = _plainly(case)
    except Exception as error:
        want = error
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            subject = build(case, plainly=False)
            got = case.ask.perform(lambda s, x: s.by_the_library(case.strategy, x), subject, False)
        except Exception as error:
            complaint = unclear(error)
            if complaint and (isinstance(want, Exception) or _torch_says_so(case)):
                return Judgement(case, Verdict.UNJUDGED, str(error))
            refusal = Verdict.NEEDLESS if owed(case) and not isinstance(want, Exception) else Verdict.REFUSED
            verdict = Verdict.UNCLEAR if complaint else refusal
            return Judgement(case, verdict, f"{complaint}{type(error).__name__}: {error}"[:600])
    if isinstance(want, Exception):
        return Judgement(case, Verdict.UNJUDGED, f"plain loop: {want}")
    wrong = _difference(case, got, want, [str(w.message) for w in heard])
    if wrong and _torch_does_so(case, got):
        return Judgement(case, Verdict.UNJUDGED, wrong)
    return Judgement(case, Verdict.SILENT if wrong else Verdict.RIGHT, wrong)


def owed(case: Case) -> bool:
    """Whether the right answer is owed: an ordinary network, nothing in between, a strategy that takes every plan."""
    plain = all(ingredient.ordinary for ingredient in case.ingredients) and case.ask.ordinary
    # the parameters of an expert that nobody can find are like a captured leaf of late calls
    plain = plain and (LateExpert() not in case.ingredients or case.container is module)
    return plain and case.strategy in (None, Direct(), Checkpoint(), Checkpoint(mechanism=Mechanism.REGION))


def _torch_says_so(case: Case) -> bool:
    """Whether a plain loop over the very network, with the same change in between, raises too: torch's own error is
    the user's then.
    """
    try:
        _plainly(case, as_it_is=True)
    except Exception:
        return True
    return False


def _torch_does_so(case: Case, got: Answers) -> bool:
    """Whether a plain loop over the very network, with the same change in between, gives the same: a weight that was
    frozen before `backward` gets nothing, nor does one inside a reentrant checkpoint from `backward(inputs=)`.
    """
    try:
        return not _difference(case, got, _plainly(case, as_it_is=True), [])
    except Exception:
        return False


def _plainly(case: Case, as_it_is: bool = False) -> Answers:
    """`as_it_is`: with the user's own optimisations in the network, and the change in between."""
    strategy = case.strategy

    def run(subject: Subject, x: Tensor | None) -> Tensor:
        state = subject.x if x is None else x
        state = state.float() if state.dtype in (torch.float16, torch.bfloat16) else state
        cut = max(0, subject.plan.steps - strategy.last) if isinstance(strategy, Truncated) else 0
        with torch.set_grad_enabled(strategy is not None):
            return case.sampler.run(subject, state, cut)

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(
        False
    )  # it gives other values at padded positions; off in the library too
    try:
        return case.ask.perform(run, build(case, plainly=not as_it_is), not as_it_is)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _difference(case: Case, got: Answers, want: Answers, heard: list[str]) -> str:
    """The first answer that is wrong, in words; "" if none is."""
    mine, theirs = _dense(got), _dense(want)
    worst = max(_size(v) for v in theirs.values())
    for name, there in theirs.items():
        here = mine.get(name)
        if case.strategy in ESTIMATES and name != "sample" and (here is not None or there is None):
            continue  # another gradient, at other times: under laws of its own
        if not _size(there):
            if _size(here) > 1e-6:
                return f"{name}: got {_size(here):.3g}, a plain loop has none"
            if here is None and _cut_off(case, name) and not any("Truncated" in text for text in heard):
                return f"{name}: got None where truncation cuts it off, and nobody was told"
            continue
        assert there is not None
        if here is None:
            return f"{name}: got None, a plain loop has {_size(there):.3g}"
        if here.shape != there.shape:
            return f"{name}: got shape {tuple(here.shape)}, a plain loop has {tuple(there.shape)}"
        # what cancels to (nearly) nothing is as wrong as what it is a difference of
        floor = 1e-5 if tolerance(case) < 1e-6 else 1e-2
        error = float((here.to(there) - there).abs().max()) / (_size(there) + floor * worst)
        if not error <= tolerance(case):
            return f"{name}: off by {error:.2g} of a plain loop's {_size(there):.3g}"
    return ""


def _dense(answers: Answers) -> Answers:
    return {name: None if v is None else v.detach().to_dense() for name, v in answers.items()}


def _size(value: Tensor | None) -> float:
    """max |value|, 0 where there is none."""
    return float(value.abs().max()) if value is not None and value.numel() else 0.0


def _cut_off(case: Case, name: str) -> bool:
    """Whether the state got no gradient because the run is truncated."""
    return isinstance(case.strategy, Truncated) and case.strategy.last < case.steps and name == "x"


def tolerance(case: Case) -> float:
    """Relative, by the narrowest arithmetic that the case uses."""
    if case.dtype == torch.bfloat16 or AutocastIsland() in case.ingredients:
        return 0.06
    # batch normalisation divides by a spread that is next to nothing where the rows are equal
    narrow = case.dtype == torch.float32 or "half" in case.state.__name__ or BatchNorm() in case.ingredients
    return 4e-4 if narrow else 1e-8


# what an error must say: what there was, what should have been, what to do
GOT = re.compile(r"\b(got|gave|had|was|were|reaches|saved|off by|NaN)\b")
EXPECTED = re.compile(r"\bexpected\b")
REMEDY = re.compile(
    r"(?:[;:,]|\bor|\band|\bthen) (?:or |and |then )?"
    r"(use|pass|call|clone|register|set|take|fix|make|move|end|write|slice|declare|give|turn|switch|check|sample|keep|"
    r"wrap|import|put|add|raise|lower|choose|ask|detach|sort|swap|try|convert|cast|expand|repeat|drop|load|run|read|"
    r"see|start|name|leave|divide|do|build|list|return|train|unfreeze|freeze|save|copy|mark|reduce|let|compute|"
    r"remove)\b"
)
# where an argument is named, what was expected of it is what to change
ARGUMENT = re.compile(r"[^:;]{1,200}: got .+, expected ", re.S)
PARTS = {"what it got": GOT, "what was expected": EXPECTED, "what to change": REMEDY}
# the last is Python's own for a path where nothing is, and what callers catch
KINDS = (ValueError, TypeError, RuntimeError, FloatingPointError, FileNotFoundError)


def unclear(error: BaseException) -> str:
    """What is wrong with an error, or ""."""
    told = str(error)
    file, ours = _place(error)
    if not ours:
        return f"raw, from {file}: "
    if not isinstance(error, KINDS):
        return f"of kind {type(error).__name__}: "
    missing = [part for part, found in PARTS.items() if not found.search(told)]
    if ARGUMENT.match(told):
        return ""
    return f"does not say {', '.join(missing)}: " if missing else ""


def explains_the_network(error: BaseException) -> bool:
    """Whether it says why the user's network itself raised. Which dtypes a network takes, say, is not known before its
    first call: no work is lost by asking it there.
    """
    cause = error.__cause__
    return cause is not None and not _place(cause)[1]


def _place(error: BaseException) -> tuple[str, bool]:
    """The file that raised it, and whether that is the library's."""
    path = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return path.name, any(path.is_relative_to(ours) for ours in OURS)


def smallest(found: Judgement) -> Judgement:
    """The plainest case with the same fault."""
    for case in found.case.simpler():
        simpler = judge(case)
        if simpler.symptom == found.symptom:
            return smallest(simpler)
    return found
