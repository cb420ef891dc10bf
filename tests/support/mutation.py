"""Mutants of the library, and whether the laws kill them: `make mutate FILES=solvers COUNT=20 SEED=0`.

A mutant is one small change (an operator of cosmic-ray: another sign, another number, a condition negated, a loop that
never runs) to one file. It is made in a scratch copy of the tree, never in the checkout, and put before the laws that
belong to the file (`LAWS` in `laws_of`), in a process forked from one that has loaded torch already. What survives
is a hole in the laws, or a change that changes nothing; the table says which line to look at.
"""

# pyright: reportMissingImports=false
import argparse
import ast
import difflib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice

from laws_of import laws

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 300  # of processor time for one mutant; what it is then is open: a loop without end, or a survivor

_ARITHMETIC, _ORDER = ("Add", "Sub", "Mul", "Div"), ("Lt", "LtE", "Gt", "GtE")
OPERATORS = (
    "AddNot", "NumberReplacer", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue",
    "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_USub", "ZeroIterationForLoop", "RemoveDecorator",
    "ReplaceComparisonOperator_Eq_NotEq", "ReplaceComparisonOperator_NotEq_Eq", "ReplaceComparisonOperator_Is_IsNot",
    "ReplaceComparisonOperator_IsNot_Is",
    *(f"ReplaceBinaryOperator_{a}_{b}" for a in _ARITHMETIC for b in _ARITHMETIC if a != b),
    *(f"ReplaceComparisonOperator_{a}_{b}" for a in _ORDER for b in _ORDER if a != b),
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """The `occurrence`-th place where `operator` can change `file`."""

    file: str
    operator: str
    occurrence: int


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: its change as a diff, and the first test that failed, "time", or ""."""

    mutant: Mutant
    change: str
    killed_by: str
    seconds: float
    last: str = ""  # the test that was the last to begin

    @property
    def killed(self) -> bool:
        return self.killed_by not in ("", "time")


def mutants(files: list[str]) -> list[Mutant]:
    """Every mutant of these files."""
    from cosmic_ray.ast import ast_nodes, get_ast  # type: ignore
    from cosmic_ray.plugins import get_operator  # type: ignore

    found = []
    for file in files:
        nodes = list(ast_nodes(get_ast((ROOT / file).read_text())))
        for name in OPERATORS:
            operator = get_operator(f"core/{name}")()
            count = sum(1 for node in nodes for _ in operator.mutation_positions(node))
            found += [Mutant(file, name, k) for k in range(count)]
    return found


def mutated(mutant: Mutant) -> str | None:
    """The file's text with the change; None where it changes nothing that runs."""
    from cosmic_ray.mutating import mutate_code  # type: ignore
    from cosmic_ray.plugins import get_operator  # type: ignore

    source = (ROOT / mutant.file).read_text()
    text = mutate_code(source, get_operator(f"core/{mutant.operator}")(), mutant.occurrence)
    return None if text is None or text == source else text


def change(mutant: Mutant, text: str) -> str:
    """The lines that differ."""
    lines = difflib.unified_diff(
        (ROOT / mutant.file).read_text().splitlines(), text.splitlines(), n=0, lineterm=""
    )
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


class Bench:
    """A scratch copy of the tree in which mutants are tried."""

    def __init__(self, place: pathlib.Path, seconds: int, without: list[str]) -> None:
        self.place, self.seconds, self.without, self.clock = place, seconds, without, time.time()
        for file in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split("\n"):
            if file and (ROOT / file).is_file():
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, place / file)
        for layer in ("solvers", "adjoint", "guidance"):  # found before the installed library
            (place / "pullback" / layer).symlink_to(place / layer)

    def write(self, file: str, text: str) -> None:
        """Put text into a file, with a time of its own: compiled code of a moment ago must not stand in for it."""
        self.clock += 2
        (self.place / file).write_text(text)
        os.utime(self.place / file, (self.clock, self.clock))

    def try_out(self, mutant: Mutant, text: str) -> Outcome:
        before = time.monotonic()
        self.write(mutant.file, text)
        try:
            killed_by, last = self.killed_by([f"tests/{test}" for test in laws(mutant.file)])
        finally:
            self.write(mutant.file, (ROOT / mutant.file).read_text())
        return Outcome(mutant, change(mutant, text), killed_by, round(time.monotonic() - before, 1), last)

    def killed_by(self, tests: list[str]) -> tuple[str, str]:
        """The first test that fails, in a forked process, "" if all pass; and the test that was the last to begin."""
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            self._in_the_child(tests, write)
        os.close(write)
        with os.fdopen(read) as pipe:
            said = pipe.read().splitlines()
        _, status = os.waitpid(child, 0)
        last = next((line[6:] for line in reversed(said) if line.startswith("began ")), "")
        failed = [line[7:] for line in said if line.startswith("failed ")]
        if failed:
            return failed[0], last
        return "" if status == 0 else "time" if os.WIFSIGNALED(status) else "a crash", last

    def _in_the_child(self, tests: list[str], write: int) -> None:
        """Run the tests up to the first failure, say what goes on, and end."""
        import pytest

        class FirstFailure:
            @pytest.hookimpl(trylast=True)
            def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
                """One case of every law, then the next of every law: most of what can be noticed is noticed soon."""
                seen: Counter[str] = Counter()
                turn = {}
                for item in items:
                    law = item.nodeid.partition("[")[0]
                    turn[item.nodeid] = seen[law]
                    seen[law] += 1
                items.sort(key=lambda item: turn[item.nodeid])

            def pytest_runtest_logstart(self, nodeid: str) -> None:
                os.write(write, f"began {nodeid}\n".encode())

            def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
                if report.failed:
                    os.write(write, f"failed {report.nodeid}\n".encode())
                    os._exit(1)

            def pytest_collectreport(self, report: pytest.CollectReport) -> None:
                if report.failed:
                    os.write(write, f"failed collecting {report.nodeid}\n".encode())
                    os._exit(1)

        resource.setrlimit(resource.RLIMIT_CPU, (self.seconds, self.seconds))
        _silently_in(self.place)
        # without the type checks of the test session: they kill by accident, and slow everything down
        asked = ["-q", "-x", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
        asked += ["-m", "not slow and not gpu", *(f"--deselect={test}" for test in self.without)]
        code = pytest.main([*asked, *tests], plugins=[FirstFailure()])
        if code not in (0, 5):
            os.write(write, f"failed pytest ended with {int(code)}\n".encode())
        os._exit(int(code not in (0, 5)))


def _silently_in(place: pathlib.Path) -> None:
    os.chdir(place)
    sys.path.insert(0, str(place))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)


def chosen(files: list[str], count: int, seed: int) -> Iterator[tuple[Mutant, str]]:
    """`count` mutants drawn at random from all files together: a file weighs as much as there is in it to change."""
    every = mutants(files)
    random.Random(seed).shuffle(every)
    for mutant in every:
        text = mutated(mutant)
        if text is not None and _runs_otherwise(mutant, text):
            yield mutant, text
            count -= 1
            if count <= 0:
                return


def _runs_otherwise(mutant: Mutant, text: str) -> bool:
    """Whether the change is still Python, and touches more than annotations, messages and how objects print."""

    def bare(source: str) -> str:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                node.exc.args = []
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
                node.args, node.keywords = [], []
            if isinstance(node, ast.FunctionDef) and node.name in ("__repr__", "__str__"):
                node.body = []
            for name in ("annotation", "returns"):
                if getattr(node, name, None) is not None and not isinstance(node, ast.AnnAssign):
                    setattr(node, name, None)
        return ast.dump(tree)

    try:
        return bare(text) != bare((ROOT / mutant.file).read_text())
    except SyntaxError:  # an operator that does not know all of the grammar
        return False


def table(outcomes: list[Outcome]) -> str:
    """Survivors as a page of Markdown, with the share killed in every folder."""
    folders, dead = Counter(), Counter()
    for outcome in outcomes:
        folder = str(pathlib.Path(outcome.mutant.file).parent)
        folders[folder] += 1
        dead[folder] += outcome.killed
    text = "| folder | mutants | killed |\n|---|---|---|\n"
    text += "".join(f"| {name} | {folders[name]} | {dead[name]} |\n" for name in sorted(folders))
    for outcome in outcomes:
        if not outcome.killed:
            text += f"\n## {outcome.mutant.file}\n\n```diff\n{outcome.change}\n```\n"
    return text


def files_of(names: list[str]) -> list[str]:
    """The library's files in these folders, or these files."""
    found = []
    for name in names:
        path = ROOT / name
        found += [path] if path.is_file() else sorted(path.glob("**/*.py"))
    return [str(path.relative_to(ROOT)) for path in found if path.name != "__init__.py"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=["solvers", "adjoint", "guidance"])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "out" / "mutants")
    parser.add_argument("--skip", type=int, default=0, help="so many of the draw were tried before")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="processor time for one mutant")
    parser.add_argument("--without", nargs="*", default=[], help="tests that fail as it is")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    import hypothesis
    import mpmath
    import pytest
    import torch

    _ = hypothesis, mpmath, pytest  # loaded once, for every child
    torch.set_num_threads(1)
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(pathlib.Path(scratch), given.seconds, given.without)
        draw = chosen(files_of(given.files), given.skip + given.count, given.seed)
        for mutant, text in islice(draw, given.skip, None):
            outcome = bench.try_out(mutant, text)
            outcomes.append(outcome)
            verdict = (
                f"killed by {outcome.killed_by}"
                if outcome.killed
                else "OPEN"
                if outcome.killed_by
                else "SURVIVED"
            )
            print(
                f"{len(outcomes):4} {outcome.seconds:6.1f} s {mutant.file} {verdict}\n{outcome.change}",
                flush=True,
            )
            (given.out / "mutants.json").write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
            (given.out / "survivors.md").write_text(table(outcomes))
    killed = sum(outcome.killed for outcome in outcomes)
    print(f"{killed} of {len(outcomes)} killed; survivors in {given.out / 'survivors.md'}")


if __name__ == "__main__":
    main()
