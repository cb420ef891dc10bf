"""The pages: their code blocks, links and what they show. As a script: writes docs/names.md anew."""

import functools
import importlib
import os
import pathlib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext

from torchvision_stand_in import WANT_IT, torchvision_stand_in
from untyped import untyped

from pullback import adjoint, guidance, solvers

ROOT = pathlib.Path(__file__).parents[2]
INDEX, NAMES = ROOT / "docs" / "index.md", ROOT / "docs" / "names.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHELVES: Mapping[str, types.ModuleType] = {"solvers": solvers, "adjoint": adjoint} | {
    f"guidance.{name}": thing for name, thing in vars(guidance).items() if name in guidance.__all__ and
    isinstance(thing, types.ModuleType)
}  # fmt: skip


def blocks(page: pathlib.Path, language: str = "python") -> Iterator[tuple[int, str]]:
    """(line of the first statement, source) of every block in `language`."""
    text = page.read_text()
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.S | re.M):
        yield text[: found.start(1)].count("\n") + 1, found[1]


def needs(page: pathlib.Path, line: int) -> list[str]:
    """The libraries without which the block at `line` is left out: `<!-- needs jax, diffrax -->` above its fence."""
    above = page.read_text().splitlines()[: line - 2]
    found = re.fullmatch(r"<!-- needs (.+) -->", above[-1]) if above else None
    return found[1].split(", ") if found else []


def missing(names: Iterable[str]) -> list[str]:
    """Those that cannot be imported here: a library, or a part of it that an older one had."""

    def there(name: str) -> bool:
        try:
            importlib.import_module(name)
        except ImportError:
            return False
        return True

    return [name for name in names if not there(name)]


def run(page: pathlib.Path) -> dict[str, object]:
    """Run the page's blocks in order in one namespace, which is returned; errors name the page's lines. Blocks whose
    library is missing are left out: "left out" has (line, library) of each.
    """
    left_out: list[tuple[int, str]] = []
    names: dict[str, object] = {"__name__": "__main__", "left out": left_out}
    wanted = {name for line, _ in blocks(page) for name in needs(page, line)}
    with torchvision_stand_in() if wanted & set(WANT_IT) else nullcontext():
        for line, source in blocks(page):
            if lacking := missing(needs(page, line)):
                left_out.append((line, ", ".join(lacking)))
                continue
            # torch.compile sees through our functions, not through what the tests put around them
            with untyped() if "torch.compile(" in source else nullcontext():
                exec(compile("\n" * (line - 1) + source, str(page), "exec"), names)
    return names


def links(page: pathlib.Path) -> Iterator[str]:
    """Where the page's links and pictures lead, inside the repository, without anchors."""
    yield from (where for where, _ in anchored(page))


def anchored(page: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(where, heading or "") of the same."""
    for where in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not where.startswith(("http:", "https:")):
            path, _, heading = where.partition("#")
            yield path or page.name, heading


def headings(page: pathlib.Path) -> set[str]:
    """The page's headings as links name them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def exported() -> Iterator[tuple[str, str]]:
    """(shelf, name) of every public name but the sub-packages'."""
    for shelf, module in SHELVES.items():
        for name in sorted(module.__all__, key=str.lower):
            if not isinstance(getattr(module, name), types.ModuleType):
                yield shelf, name


@functools.cache
def code(path: pathlib.Path) -> str:
    """What a page sets as code; the whole of a program."""
    if path.suffix == ".py":
        return path.read_text()
    return "\n".join(re.findall(r"^```.*?^```|`[^`\n]+`", path.read_text(), re.S | re.M))


def shows(path: pathlib.Path, name: str) -> bool:
    """Whether the page or program has the name in its code."""
    return re.search(rf"(?<!\w){name}(?!\w)", code(path)) is not None


TOPICS = {
    "solvers": (
        "networks", "methods", "noise", "plans", "adaptive", "equations", "processes", "notation", "reversible",
    ),
    "adjoint": ("gradients",),
    "guidance.adversarial": ("adversarial",),
    "guidance.edit": ("editing",),
    "guidance.morphs": ("morphs",),
    "guidance.objectives": ("reward", "finetune"),
    "guidance.recognition": ("morphs",),
    "guidance.rewards": ("finetune",),
    "guidance.train": ("reward",),
}  # fmt: skip


def home(shelf: str, name: str) -> pathlib.Path | None:
    """Where a reader should look a name up: its topic's page, else another of docs, the README, an example."""
    docs = ROOT / "docs"
    topics = [docs / f"{topic}.md" for topic in TOPICS.get(shelf, ("guidance",))]
    others = [page for page in PAGES if page.parent == docs and page not in (NAMES, INDEX, *topics)]
    return next(
        (path for path in [*topics, *others, ROOT / "README.md", *EXAMPLES] if shows(path, name)), None
    )


def names_page() -> str:
    """docs/names.md."""
    text = NAMES.read_text().partition("\n## ")[0].rstrip() + "\n"
    shelf = ""
    for where, name in exported():
        if where != shelf:
            shelf = where
            text += f"\n## pullback.{shelf}\n\n| name | shown in |\n|---|---|\n"
        path = home(where, name)
        link = "" if path is None else f"[{path.name}]({os.path.relpath(path, NAMES.parent)})"
        text += f"| `{name}` | {link} |\n"
    return text


if __name__ == "__main__":
    NAMES.write_text(names_page())
