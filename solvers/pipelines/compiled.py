"""The three parts of a pipeline's `__call__` as functions of their own."""

import ast
import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .source import PARTS, Block, BlockPath, LoopSource, names, prediction_of, steps

Local = dict[str, Any]
LABELS, INDEX, LABEL = "_labels", "_index", "_label"


class Unset:
    """Stands for a variable that the pipeline has not set."""


UNSET = Unset()


@dataclass(frozen=True, eq=False)
class PipelineCode:
    """What a pipeline does before, in and after its loop. Nothing is patched: these are functions compiled from the
    source of its `__call__`, without its `no_grad`, in its module's names.

    Attributes:
        opening: (pipe, **arguments) -> its variables when the loop begins, and under `LABELS` what it runs over.
        encoding: (pipe, **arguments) -> its variables once prompts are encoded; None where it does not encode.
        turn: (**variables) -> what one turn hands to `scheduler.step`.
        rest: (**variables) -> the state after what follows `step` in a turn; None where nothing does.
        closing: (**variables) -> what `__call__` returns.
        options: (**variables) -> further arguments of `scheduler.step`.
        reads: the variables that turn, rest, closing and options read, by function.
        processes: whether the closing hands its pictures to a processor, before it makes numpy of them.
    """

    source: LoopSource
    opening: Callable[..., Local]
    encoding: Callable[..., Local] | None
    turn: Callable[..., Any]
    rest: Callable[..., Any] | None
    closing: Callable[..., Any]
    options: Callable[..., Local]
    reads: dict[Callable[..., Any], tuple[str, ...]]
    processes: bool

    def played(self, part: Callable[..., Any], variables: Local, /, **given: Any) -> Any:
        """`part` of the loop on the variables, some of them replaced."""
        known = {**variables, **given}
        return part(**{name: known[name] for name in self.reads[part] if name in known})


@lru_cache(maxsize=64)
def code_of(pipeline: type) -> PipelineCode:
    """The parts of a pipeline's class."""
    source = LoopSource.of(pipeline)
    build = _Builder(source, inspect.unwrap(pipeline.__call__).__globals__)
    return build.code()


@dataclass(eq=False)
class _Builder:
    """Compiles parts of one function."""

    source: LoopSource
    module: dict[str, Any]

    def __post_init__(self) -> None:
        self.reads: dict[Callable[..., Any], tuple[str, ...]] = {}

    def code(self) -> PipelineCode:
        turn = self._part("turn", [self._one_turn()], {INDEX, LABEL})
        rest = self.source.loop.body[self.source.place + 1 :]
        after = (
            self._part("rest", [*rest, _returns(_name(self.source.state))]) if self._goes_on(rest) else None
        )
        last = [each for block, k in reversed(self.source.path) for each in block[k + 1 :]]
        closing = self._part("closing", last)
        processes = any(".postprocess" in ast.unparse(each) for each in last)
        options = self._part("options", [_returns(self._options())])
        return PipelineCode(
            self.source,
            self._opening(),
            self._encoding(),
            turn,
            after,
            closing,
            options,
            self.reads,
            processes,
        )

    def _opening(self) -> Callable[..., Local]:
        here = _returns(ast.Dict([None, ast.Constant(LABELS)], [_call("locals"), self.source.labels]))
        body = self._until(self.source.path, here)
        return self._compiled("opening", self.source.function.args, body)

    def _encoding(self) -> Callable[..., Local] | None:
        """As far as the last call of `encode_prompt` before the loop."""
        path = _to_encoding(self.source.function.body[: self.source.path[0][1]])
        if path is None:
            return None
        here = _returns(_call("locals"))
        # once more at the end: the last call may stand in a branch that is not taken
        body = [*self._until(path, here, after=1), here]
        return self._compiled("encoding", self.source.function.args, body)

    def _until(self, path: BlockPath, end: ast.stmt, after: int = 0) -> Block:
        """The function as far as the end of the path, where `end` stands, or `after` statements behind it."""
        (block, k), *inner = path
        if not inner:
            return [*block[: k + after], end]
        outer = copy.copy(block[k])
        for part in PARTS:
            if getattr(outer, part, None) is inner[0][0]:
                setattr(outer, part, self._until(tuple(inner), end, after))
        if isinstance(outer, ast.For):
            outer.iter = _call("_once", outer.iter)
        return [*block[:k], outer]

    def _one_turn(self) -> ast.stmt:
        """The loop's body for one turn, a loop still: `continue` and `break` stay what they are."""
        source, place = self.source, self.source.place
        step = _Handing().visit(copy.deepcopy(source.loop.body[place]))
        index, label = source.targets
        items = _name(LABEL) if index is None else ast.Tuple([_name(INDEX), _name(LABEL)], ast.Load())
        loop = copy.copy(source.loop)
        loop.iter = ast.Tuple([items], ast.Load())
        loop.body, loop.orelse = [*source.loop.body[:place], step], []
        return loop

    def _goes_on(self, rest: Block) -> bool:
        """Whether what follows `step` writes to the state, callbacks and casts aside."""
        state = self.source.state
        kept = [
            each for each in rest if "callback_outputs" not in ast.unparse(each) and not _casts(each, state)
        ]
        return any(state in names(each, ast.Store) for each in kept)

    def _options(self) -> ast.expr:
        """dict(eta=eta, **extra_step_kwargs) of the call of `step`."""
        own = [each for each in self.source.call.keywords if each.arg not in STEP_ARGUMENTS]
        return ast.Call(_name("dict"), [], own)

    def _part(self, name: str, body: Block, also: Iterable[str] = ()) -> Callable[..., Any]:
        """A function of those of the pipeline's variables that `body` reads."""
        read = {found for each in body for found in names(each, ast.Load)}
        read = sorted(read & {*self.source.variables, *also})
        arguments = ast.arguments(
            [], [], None, [ast.arg(each) for each in read], [_name("_unset") for _ in read], None, []
        )
        part = self._compiled(name, arguments, body)
        self.reads[part] = tuple(read)
        return part

    def _compiled(self, name: str, arguments: ast.arguments, body: Iterable[ast.stmt]) -> Callable[..., Any]:
        plain = copy.deepcopy(arguments)
        for each in ast.walk(plain):
            if isinstance(each, ast.arg):
                each.annotation = None
        block = ast.Module([copy.deepcopy(each) for each in body] or [ast.Pass()], [])
        function = ast.FunctionDef(name, plain, _Differentiable().visit(block).body, [])
        module = ast.fix_missing_locations(
            ast.copy_location(ast.Module([function], []), self.source.function)
        )
        space = {**self.module, "_once": _once, "_unset": UNSET}
        exec(compile(module, self.source.filename, "exec"), space)  # noqa: S102  (the pipeline's own source)
        return space[name]


STEP_ARGUMENTS = ("generator", "return_dict", "noise", "variance_noise", "model_output", "timestep", "sample",
                  "prev_timestep")  # fmt: skip
GRADLESS = ("torch.no_grad()", "torch.inference_mode()")


def _casts(statement: ast.stmt, state: str) -> bool:
    """Whether it does no more than cast the state."""
    inner = statement.body if isinstance(statement, ast.If) else [statement]
    cast = f"{state} = {state}.to("
    return all(
        ast.unparse(each).startswith(cast) or isinstance(each, ast.If) and _casts(each, state)
        for each in inner
    )


def _to_encoding(block: Block) -> BlockPath | None:
    """The path to the last statement that calls `encode_prompt`."""
    for k, statement in reversed(list(enumerate(block))):
        if "self.encode_prompt(" not in ast.unparse(statement):
            continue
        for part in PARTS:
            inner = _to_encoding(getattr(statement, part, []))
            if inner is not None:
                return ((block, k), *inner)
        return ((block, k),)
    return None


class _Handing(ast.NodeTransformer):
    """Statements that call `step` return what they would hand it."""

    def visit_Assign(self, node: ast.Assign) -> ast.AST:  # noqa: N802  (ast's own name)
        found = steps(node)
        return ast.copy_location(_returns(prediction_of(found[0])), node) if found else node


class _Differentiable(ast.NodeTransformer):
    """What stands under `torch.no_grad()`, without it."""

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.stmt]:  # noqa: N802  (ast's own name)
        self.generic_visit(node)
        gradless = len(node.items) == 1 and ast.unparse(node.items[0].context_expr) in GRADLESS
        return node.body if gradless else node


def _once(items: Iterable[Any]) -> list[Any]:
    """The items of a loop around the denoising loop, which must run once."""
    found = list(items)
    if len(found) != 1:
        raise ValueError(
            f"from_diffusers: got a pipeline that samples {len(found)} times, expected once; turn it off"
        )
    return found


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(_name(name), list(arguments), [])


def _returns(value: ast.expr) -> ast.Return:
    return ast.Return(value)
