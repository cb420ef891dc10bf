"""Where the loop is in the source of a pipeline's `__call__`, and what stands before, in and after it."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

Block = list[ast.stmt]
BlockPath = tuple[tuple[Block, int], ...]  # blocks one in the other, with a place in each
PARTS = ("body", "orelse", "finalbody")  # of a statement: its blocks
DTYPE_CASTS = ("to", "float")


@dataclass(frozen=True, eq=False)
class LoopSource:
    """The source of one pipeline's `__call__`, taken apart at its denoising loop:

        <opening>
        for i, t in enumerate(timesteps):          loop
            <turn>
            latents = self.scheduler.step(noise_pred, t, latents, ...)[0]          statement, call
            <rest>
        <closing>

    Attributes:
        name: the class, for messages.
        function: the whole.
        path: the blocks that lead to the loop, outermost first, with the place in each.
        call: that of `step`.
    """

    name: str
    function: ast.FunctionDef
    filename: str
    path: BlockPath
    call: ast.Call

    @staticmethod
    def of(pipeline: type) -> "LoopSource":
        """That of a pipeline's class. Raises ValueError where there is no such loop."""
        function = inspect.unwrap(pipeline.__call__)
        if not inspect.isfunction(function):
            raise ValueError(
                f"from_diffusers: got {pipeline.__name__}, which cannot be called; load a pipeline of a kind"
            )
        filename = inspect.getsourcefile(function) or "<pipeline>"
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
        ast.increment_lineno(tree, first - 1)  # a traceback shows the pipeline's own lines
        whole = tree.body[0]
        assert isinstance(whole, ast.FunctionDef)
        found = list(_loops(whole.body))
        if not found:
            raise ValueError(
                f"from_diffusers: got {pipeline.__name__}, expected a pipeline with `scheduler.step` in a loop of its "
                "`__call__`; wrap its network: plan_from_scheduler(pipe.scheduler, steps).denoiser(network)"
            )
        own = [each for each in found if _scheduler(each[1]) == "self.scheduler"]
        path, call = (own or found)[-1]  # what comes before, a prior, is played when the loop opens
        return LoopSource(pipeline.__name__, whole, filename, path, call)

    @property
    def loop(self) -> ast.For:
        """The denoising loop."""
        block, at = self.path[-1]
        found = block[at]
        assert isinstance(found, ast.For)
        return found

    @property
    def place(self) -> int:
        """Which of the loop's statements holds the call of `step`."""
        return next(k for k, each in enumerate(self.loop.body) if self.call in ast.walk(each))

    @cached_property
    def scheduler(self) -> str:
        """`self.scheduler`, as the source names it."""
        return _scheduler(self.call)

    @cached_property
    def labels(self) -> ast.expr:
        """What the loop runs over, without `enumerate` and progress bars."""
        found: ast.expr = self.loop.iter
        while isinstance(found, ast.Call) and found.args and not _ranges(found):
            found = found.args[0]
        if _ranges(found):
            raise ValueError(
                f"from_diffusers: got {self.name}, whose loop runs over numbers, expected timesteps"
            )
        return found

    @cached_property
    def targets(self) -> tuple[str | None, str]:
        """The names of the turn's number, None where the loop does not count, and of its label."""
        target = self.loop.target
        if isinstance(target, ast.Name):
            return None, target.id
        found = target.elts if isinstance(target, ast.Tuple) else []
        plain = [each.id for each in found if isinstance(each, ast.Name)]
        if len(plain) != 2 or len(found) != 2:
            raise ValueError(
                f"from_diffusers: got {self.name}, whose loop is over `{ast.unparse(target)}`, expected a number and a "
                "timestep, or a timestep"
            )
        return plain[0], plain[1]

    @cached_property
    def state(self) -> str:
        """The name of the sample that `step` is given."""
        given = self.argument(2, "sample")
        while (
            isinstance(given, ast.Call)
            and isinstance(given.func, ast.Attribute)
            and given.func.attr in DTYPE_CASTS
        ):
            given = given.func.value
        if not isinstance(given, ast.Name):
            raise ValueError(
                f"from_diffusers: got {self.name}, which steps `{ast.unparse(given)}`, expected one state; part of it "
                "is conditioning, or there are several"
            )
        return given.id

    def argument(self, place: int, name: str) -> ast.expr:
        """An argument of the call of `step`."""
        if len(self.call.args) > place:
            return self.call.args[place]
        for each in self.call.keywords:
            if each.arg == name:
                return each.value
        raise ValueError(f"from_diffusers: got {self.name}, whose `{ast.unparse(self.call)}` gives no {name}")

    @cached_property
    def stepped(self) -> frozenset[str]:
        """What the call of `step` is assigned to: its sample, and of some schedulers its x0, the same at the end."""
        found = [
            each
            for each in ast.walk(self.loop.body[self.place])
            if isinstance(each, ast.Assign) and steps(each)
        ]
        return frozenset(
            name for each in found for target in each.targets for name in names(target, ast.Store)
        )

    @cached_property
    def reads_levels(self) -> bool:
        """Whether a turn looks up noise levels by its number, and so knows those of its own nodes alone."""
        index = self.targets[0]
        looked_up = [
            ast.unparse(node.value)
            for each in self.turn
            for node in ast.walk(each)
            if isinstance(node, ast.Subscript) and index in set(names(node.slice, ast.Load))
        ]
        return any(each.rsplit(".", 1)[-1] in ("sigmas", "timesteps") for each in looked_up)

    @cached_property
    def counts(self) -> bool:
        """Whether a turn looks at its number."""
        index = self.targets[0]
        return index is not None and any(index in names(each, ast.Load) for each in self.turn)

    @cached_property
    def writes_state(self) -> bool:
        """Whether a turn writes to its state before the step."""
        return any(self.state in names(each, ast.Store) for each in self.loop.body[: self.place])

    @cached_property
    def parts(self) -> frozenset[str]:
        """What a turn uses of the pipeline: its networks among others."""
        return frozenset(
            node.attr
            for each in self.turn
            for node in ast.walk(each)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        )

    @property
    def turn(self) -> Block:
        """The loop's statements as far as `step`."""
        return self.loop.body[: self.place + 1]

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names that are local to the function."""
        own = {each.arg for each in ast.walk(self.function.args) if isinstance(each, ast.arg)}
        return frozenset(own | set(names(self.function, ast.Store)))


def names(tree: ast.AST, context: type[ast.expr_context]) -> Iterator[str]:
    """The names read (ast.Load) or written (ast.Store) in a piece of source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, context):
            yield node.id


def prediction_of(call: ast.Call) -> ast.expr:
    """What a call of `step` is given as the network's answer."""
    return (
        call.args[0]
        if call.args
        else next(each.value for each in call.keywords if each.arg == "model_output")
    )


def _usual(calls: list[ast.Call], targets: set[str]) -> ast.Call:
    """Of several calls, for schedulers of several kinds, that of (prediction, label, sample)."""
    usual = [each for each in calls if len(each.args) < 3 or ast.unparse(each.args[2]) not in targets]
    return (usual or calls)[0]


def _scheduler(call: ast.Call) -> str:
    assert isinstance(call.func, ast.Attribute)
    return ast.unparse(call.func.value)


def _ranges(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"


def steps(tree: ast.AST) -> list[ast.Call]:
    """The calls of a scheduler's `step` in a piece of source."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "step"
        and "scheduler" in ast.unparse(node.func.value)
    ]


def _loops(block: Block) -> Iterator[tuple[BlockPath, ast.Call]]:
    """The innermost loops that step, each with the path to it."""
    for k, statement in enumerate(block):
        if not steps(statement):
            continue
        inner = [found for part in PARTS for found in _loops(getattr(statement, part, []))]
        yield from ((((block, k), *path), call) for path, call in inner)
        if not inner and isinstance(statement, ast.For):
            yield ((block, k),), _usual(steps(statement), set(names(statement.target, ast.Store)))
