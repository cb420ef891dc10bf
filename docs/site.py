"""Builds the site in out/site: these pages, a reference of every public name, and a check that no link is dead.

The pages are laid out as in the repository, so that one link serves both. Run by `make docs`.
"""

import importlib
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

ROOT = pathlib.Path(__file__).parents[1]
PAGES, SITE, PACKAGE = (ROOT / "out" / name for name in ("pages", "site", "package"))
SHOWN = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "docs", "examples", "tests", "benchmarks",
    "pullback/zoo",
)  # fmt: skip
LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "*.safetensors", "*.npz", "site.py", "gallery.py", "captions.toml", "typings", "404.html"
)


def rooms() -> Iterator[tuple[str, types.ModuleType]]:
    """The packages whose `__all__` is their public face, solvers first."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for name in listed:
        room = importlib.import_module(name)
        if name.count(".") and getattr(room, "__all__", ()):
            yield name, room


def reference() -> None:
    """A page for each room: what its docstring says, and every name once, at the room that is nearest to its module."""
    folder = PAGES / "reference"
    folder.mkdir()
    found = dict(rooms())
    homes: dict[int, str] = {}  # of each object: the most inner room that exports it
    for name, room in found.items():
        for each in room.__all__:
            homes[id(getattr(room, each))] = name
    index = (
        "# Reference\n\nEvery public name with its signature, formula, shapes, errors, by room. A room is a package; "
        "what it *knows* is what it imports. To look a name up go by the search or by [names](../docs/names.md), "
        "which says on what page each is shown; where to begin says the [index of pages](../docs/index.md).\n"
    )
    for name, room in found.items():
        own = [each for each in room.__all__ if homes[id(getattr(room, each))] == name]
        own = [each for each in own if not isinstance(getattr(room, each), types.ModuleType)]
        if not own:
            continue
        text = f"# {name}\n\n{room.__doc__}\n\n" + "\n".join(f"::: {name}.{each}" for each in own)
        (folder / f"{name}.md").write_text(text + "\n")
        first = " ".join((room.__doc__ or "").split("\n\n")[0].split())
        index += f"\n- [{name}]({name}.md): {first}"
    (folder / "index.md").write_text(index + "\n")
    listed = set(re.findall(r"reference/(\S+)\.md", (ROOT / "mkdocs.yml").read_text())) - {"index"}
    written = {path.stem for path in folder.glob("pullback.*.md")}
    if listed != written:
        sys.exit(
            f"nav of mkdocs.yml: got {sorted(listed ^ written)} there or among the rooms only, expected in both"
        )


def package() -> None:
    """The library as it is when installed, for the reference to be read from: three folders under one name."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    for folder in ("pullback", "solvers", "adjoint", "guidance"):
        there = PACKAGE / "pullback" if folder == "pullback" else PACKAGE / "pullback" / folder
        shutil.copytree(ROOT / folder, there, ignore=LEFT_OUT, symlinks=True)


class Anchors(HTMLParser):
    """The links of a page and the places that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.places = list[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self.places |= {place for place in (of.get("id"), of.get("name")) if place}
        where = of.get("href") if tag == "a" else of.get("src") if tag == "img" else None
        if where:
            self.links.append(where)


def dead_links() -> list[str]:
    """Those that lead to no file of the site, or to no place on its page."""
    pages = {path: Anchors(path.read_text()) for path in SITE.rglob("*.html") if path.name != "404.html"}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            place = unquote(parts.fragment)
            if not there.exists() or place and there in pages and place not in pages[there].places:
                dead.append(f"{path.relative_to(SITE)}: {link}")
    return dead


def lost_lists() -> list[str]:
    """Lists that follow a line of text without a blank one: a list on GitHub, running text on the site."""
    lost = []
    for path in (path for path in PAGES.rglob("*.md") if path.parent.name != "reference"):
        before, listed, code = "", False, False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code ^= line.lstrip().startswith("```")
            item = bool(re.match(r"([-*]|\d+\.) ", line)) and not code
            apart = not before.strip() or before.startswith(("#", "<!--"))
            if item and not apart and (not listed or before.startswith(4 * " ")):
                lost.append(f"{path.relative_to(PAGES)}:{number}: {line[:60]}")
            listed = item or (listed and (bool(before.strip()) or line[:1] in ("", " ")))
            before = line
    return lost


def main() -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for name in SHOWN:
        there = ROOT / name
        if there.is_dir():
            shutil.copytree(there, PAGES / name, ignore=LEFT_OUT)
        else:
            shutil.copy(there, PAGES / name)
    if lost := lost_lists():
        sys.exit(
            "got lists that the site shows as text, expected a blank line before each:\n" + "\n".join(lost)
        )
    reference()
    package()
    tool = pathlib.Path(sys.executable).parent / "zensical"
    subprocess.run([tool, "build", "--clean", "--strict"], cwd=ROOT, check=True)
    if dead := dead_links():
        sys.exit("got dead links, expected none:\n" + "\n".join(dead))


if __name__ == "__main__":
    main()
