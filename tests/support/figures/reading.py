"""What a page says in words and tables, and which of its numbers look like a measurement.

Left out by rule: code, headings, links, pictures, formulas, arXiv numbers, versions, and a number that a symbol is set
to, as in t = 0.2.
"""

import re
from collections.abc import Iterator

NUMBER = re.compile(
    r"(?<![\w.^_])(?<![A-Za-z][-/])(?:(?<![\w)])[-+])?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w]*\d)"
)
UNIT = re.compile(
    r"[ \n]*(?:%|per cent|times|x(?![ \n]?\d)|calls?|network calls|evaluations|VJPs|JVPs|NFE|ns|us|ms|s|seconds|"
    r"minutes|hours|KiB|MiB|GiB|kB|KB|MB|GB|bytes|nats|bits|dB|points)(?!\w)"
)
JOIN = re.compile(r"\s*(?:to|and|or|by|,|-|/|±|\+-|, and)\s*\Z")
OUT = [
    re.compile(pattern, re.M | re.S)
    for pattern in (
        r"(?<=\n\n)(?:    [^\n]*\n+)+",  # formulas, before code leaves spaces
        r"^```.*?^```$",  # code
        r"(?<!`)`[^`]*`",
        r"^#+ [^\n]*$",  # headings
        r"<!--.*?-->",
        r"!\[[^\]]*\]\([^)]*\)",  # pictures
        r"\]\([^)]*\)",  # where links lead
        r"https?://\S+",
        r"\bN\([^()]*\)",  # a normal law
        r"\b\d{4}\.\d{4,5}\b",  # arXiv
        r"\b\d+\.\d+\.\d+\b",  # versions
        r"\b(?:Python|torch|PyTorch|diffusers|deepinv|TRL|numpy|[Vv]ersion|CC BY(?:-SA)?) \d+\.\d+",
    )
]
SET = re.compile(r"(?:^|(?<=[\s(|*,;]))[\w()*'|^_/{}]*[A-Za-zΑ-ω)|][\w()*'|^_]*\s*(?:=|<=|>=|<|>)\s*\Z")


def prose(text: str) -> str:
    """The page with spaces for what is no statement; every place stays where it is."""
    for pattern in OUT:
        text = pattern.sub(lambda found: re.sub(r"[^\n|]", " ", found[0]), text)
    return text


def measurements(text: str) -> Iterator[re.Match[str]]:
    """The numbers that look measured: a fraction, a power of ten, or one with a unit, which several may share."""
    found, kept = list(NUMBER.finditer(text)), set[int]()
    joined = [bool(JOIN.match(text[a.end() : b.start()])) for a, b in zip(found, found[1:], strict=False)]
    settled = [bool(SET.search(text[max(0, one.start() - 40) : one.start()])) for one in found]
    for k in range(1, len(found)):
        settled[k] = settled[k] or (joined[k - 1] and settled[k - 1] and not UNIT.match(text, found[k].end()))
    for k in reversed(range(len(found))):
        own = re.search(r"[.e]", found[k][0]) or UNIT.match(text, found[k].end())
        if not settled[k] and (own or (k + 1 in kept and joined[k])):
            kept.add(k)
    yield from (one for k, one in enumerate(found) if k in kept)
