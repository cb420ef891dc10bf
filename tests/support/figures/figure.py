"""A sentence or a row of a page beside the values that it was written from."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType

from figures.reading import NUMBER, prose

_LOW = "none one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
WORDS: tuple[str, ...] = (*_LOW, "seventeen", "eighteen", "nineteen", "twenty")
MARKS = re.compile(r"\{([^{}]+)\}|<([-+]?\d[\d.,e+-]*)>")


@dataclass(frozen=True)
class AtMost:
    """Printed as a bound: no value is above it."""

    value: float

    def fits(self, printed: str) -> bool:
        return self.value <= number(printed)


@dataclass(frozen=True)
class AtLeast:
    """Printed as a bound: no value is below it."""

    value: float

    def fits(self, printed: str) -> bool:
        return self.value >= number(printed)


@dataclass(frozen=True)
class About:
    """Printed in round numbers: within `by` of the value."""

    value: float
    by: float

    def fits(self, printed: str) -> bool:
        return abs(self.value - number(printed)) <= self.by


@dataclass(frozen=True)
class Rounded:
    """Printed to some digits: within half a unit of the last."""

    value: float

    def fits(self, printed: str) -> bool:
        digits, _, power = printed.replace(",", "").partition("e") if printed[-1].isdigit() else ("", "", "")
        if printed == "0":  # nought, to rounding
            return abs(self.value) < 1e-6
        unit = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
        return abs(self.value - number(printed)) <= 0.5 * unit * (1 + 1e-6)


Printed = AtMost | AtLeast | About | Rounded
Value = float | AtMost | AtLeast | About
Place = tuple[int, int]


def number(printed: str) -> float:
    """Of digits, or of a word up to twenty."""
    low = printed.lower()
    return float(WORDS.index(low)) if low in WORDS else float(low.replace(",", ""))


def printable(value: Value) -> Printed:
    return Rounded(float(value)) if isinstance(value, int | float) else value


@dataclass(frozen=True)
class Page:
    """A page's text, and the same with spaces for what is no statement."""

    name: str
    text: str

    @cached_property
    def prose(self) -> str:
        return prose(self.text)


class Figure:
    """A phrase of the page, its measured numbers in braces, beside what was measured. White space is as it comes."""

    def __init__(self, phrase: str, *values: Value) -> None:
        self.phrase, self.values = phrase, values
        parts, self.measured = [], []
        for literal, braced, marked in _parts(phrase):
            parts.append(_literal(literal))
            if braced or marked:
                parts.append(f"({re.escape(braced or marked)})")
                self.measured.append(bool(braced))
        self.pattern = re.compile("".join(parts) + r"(?![\d.]*\d)")

    def check(self, page: Page) -> Iterator[str]:
        if not self.pattern.search(page.text):
            yield f"{page.name} does not say {self.phrase!r}"
            return
        printed = [one for one, _ in MARKS.findall(self.phrase) if one]
        if len(printed) != len(self.values):
            yield f"{self.phrase!r}: got {len(self.values)} values, expected one for each of {printed}"
        for one, value in zip(printed, self.values, strict=False):
            if not printable(value).fits(one):
                yield f"{page.name}, {self.phrase!r}: says {one}, measured {value}"

    def places(self, page: Page) -> Iterator[Place]:
        for found in self.pattern.finditer(page.text):
            yield from (found.span(group) for group in range(1, len(self.measured) + 1))


class Stated(Figure):
    """A phrase whose marked numbers are not measured, and why."""

    def __init__(self, phrase: str, reason: str) -> None:
        super().__init__(phrase)
        assert reason and MARKS.search(phrase), phrase


class Row:
    """A row of a table by its first cells, and every number behind them in order; `...` for one that was set."""

    def __init__(self, begin: str, *values: Value | EllipsisType, under: str = "") -> None:
        self.begin, self.values, self.under = begin, values, under
        self.pattern = re.compile("^[ ]*" + _literal(begin) + "([^\n]*)", re.M)

    def _found(self, page: Page) -> re.Match[str] | None:
        place = page.text.find(self.under)
        return self.pattern.search(page.text, place) if place >= 0 else None

    def places(self, page: Page) -> Iterator[Place]:
        if found := self._found(page):
            yield found.span()

    def check(self, page: Page) -> Iterator[str]:
        if not (found := self._found(page)):
            yield f"{page.name} has no row {self.begin!r}" + (f" under {self.under!r}" if self.under else "")
            return
        printed = [one[0] for one in NUMBER.finditer(page.prose, *found.span(1))]
        if len(printed) != len(self.values):
            yield f"{page.name}, {self.begin!r}: got {len(self.values)} values, expected one for each of {printed}"
        for one, value in zip(printed, self.values, strict=False):
            if not isinstance(value, EllipsisType) and not printable(value).fits(one):
                yield f"{page.name}, {self.begin!r}: says {one}, measured {value}"


class Generated:
    """A passage that a benchmark's script writes from its result: it stands there letter by letter."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()

    def check(self, page: Page) -> Iterator[str]:
        if self.text not in page.text:
            lines = (line for line in self.text.splitlines() if line not in page.text)
            yield f"{page.name} is not what its script writes: {next(lines, 'other lines between')!r}"

    def places(self, page: Page) -> Iterator[Place]:
        if (start := page.text.find(self.text)) >= 0:
            yield start, start + len(self.text)


def _parts(phrase: str) -> Iterator[tuple[str, str, str]]:
    """(text before, number in braces, number set) in order, and the rest."""
    last = 0
    for found in MARKS.finditer(phrase):
        yield phrase[last : found.start()], found[1] or "", found[2] or ""
        last = found.end()
    yield phrase[last:], "", ""


def _literal(text: str) -> str:
    return r"\s+".join(re.escape(word) for word in re.split(r"\s+", text))
