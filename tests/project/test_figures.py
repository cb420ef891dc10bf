"""Every number of the pages that looks measured is compared with a committed result, or said to be no measurement."""

import functools
import importlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pages
import pytest
from figures.figure import About, AtMost, Figure, Page, Rounded, Row, Stated
from figures.reading import measurements, prose

WEIGHTS = pages.ROOT / "examples" / "weights" / "README.md"
PAGES = [*pages.PAGES, WEIGHTS]


def tables(path: pathlib.Path) -> tuple[list[Any], list[Any]]:
    """(FIGURES, STATED) of the page: docs/a-b.md in `figures/a_b.py`, docs/a/b.md in `figures/a_b.py`, or none."""
    where = "weights"
    if path != WEIGHTS:
        parts = path.relative_to(pages.ROOT).with_suffix("").parts
        where = "_".join(part for part in parts if part != "docs").lower().replace("-", "_")
    if not (pages.ROOT / "tests" / "support" / "figures" / f"{where}.py").exists():
        return [], []
    found = importlib.import_module(f"figures.{where}")
    return found.FIGURES, found.STATED


@functools.cache
def read(path: pathlib.Path) -> Page:
    return Page(str(path.relative_to(pages.ROOT)), path.read_text())


def without_source(page: Page, entries: list[Any]) -> Iterator[str]:
    covered = [place for entry in entries for place in entry.places(page)]
    for found in measurements(page.prose):
        if not any(start <= found.start() and found.end() <= end for start, end in covered):
            line = page.text.count("\n", 0, found.start())
            yield f"{page.name}:{line + 1}: {found[0]} in {page.text.splitlines()[line].strip()!r}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: read(path).name)
def test_a_page_says_what_was_measured(path):
    figures, stated = tables(path)
    wrong = [complaint for entry in figures + stated for complaint in entry.check(read(path))]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: read(path).name)
def test_no_number_is_without_its_source(path):
    """How to add one: tests/support/figures/__init__.py."""
    figures, stated = tables(path)
    missing = list(without_source(read(path), figures + stated))
    assert not missing, "\n" + "\n".join(missing)


# the reader itself
# -----------------------------------------------------------------------------------------------------------------


def test_what_looks_measured():
    text = """# Of 9.5 things
It takes 1.5 of it, 20 and 13 times less, 12-30 us, 57 to 86 % at t = 0.2, 0.3 (arXiv 2206.00927), `x.y 0.7` on
28x28 digits, torch 2.13, 4 [tests](a1.5.md) of 1e-3 and -0.25; 3 in 2 calls. Version 0.3, numpy 1.26; inversion 0.05.

    y = 0.5 x

`code` takes 8 s.
"""
    assert [found[0] for found in measurements(prose(text))] == [
        "1.5", "20", "13", "12", "30", "57", "86", "1e-3", "-0.25", "2", "0.05", "8",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("printed", "value", "holds"),
    [
        ("0.25", Rounded(0.2549), True), ("0.25", Rounded(0.2551), False), ("2.4e3", Rounded(2449.0), True),
        ("17,000", Rounded(17000.4), True), ("17,000", Rounded(16960.0), False), ("17,000", About(16960, 50), True),
        ("150", AtMost(149.9), True), ("150", AtMost(150.1), False), ("Five", Rounded(5.0), True),
    ],
)  # fmt: skip
def test_a_number_as_printed(printed, value, holds):
    assert value.fits(printed) is holds


def test_a_wrong_number_a_lost_phrase_and_a_new_number_are_found():
    page = Page("page", "It is 3 times\nas fast, 1.5 s.\n\n| a | b |\n|---|---|\n| `x 0.5` | 0.2 / 30 |\n")
    right = [Figure("is {3} times as fast", 3.2), Row("| `x 0.5` |", 0.21, ...), Stated("<1.5> s", "set")]
    assert not [*without_source(page, right)]
    assert not [complaint for entry in right for complaint in entry.check(page)]
    for wrong in (
        Figure("is {3} times", 3.6), Figure("was {3} times", 3.0), Figure("is {3} times"), Row("| y |", 1.0),
        Row("| `x 0.5` |", 0.26, ...), Row("| `x 0.5` |", 0.2),
    ):  # fmt: skip
        assert len([*wrong.check(page)]) == 1, wrong
    assert [each.split(": ")[1][:3] for each in without_source(page, right[:1])] == ["1.5", "0.2"]
