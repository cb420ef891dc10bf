"""How results show themselves where they are the last line of a cell: one line, and a table."""

import enum
import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

WIDEST, MOST_ROWS = 99, 60


def one_line(text: str) -> str:
    """`text` on one line of at most 99 characters."""
    text = " ".join(text.split())
    return text if len(text) <= WIDEST else text[: WIDEST - 2] + "…>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """An HTML table of cells that are text: what is markup in them is shown, not obeyed. After 60 rows it says how many
    more there are.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = list(rows)
    body = "".join(line(row, "td") for row in rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        body += line([f"… {len(rows) - MOST_ROWS} more; print shows all"], "td")
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}{line(head, 'th')}{body}</table>"


def form(state: Any) -> str:
    """Shape, type and device of a tensor, or of each in a nesting of them: never their numbers."""
    tensors = [leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)]
    said = [f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')} {t.device}" for t in tensors[:3]]
    return (
        "; ".join(said) + (f"; {len(tensors) - 3} more" if len(tensors) > 3 else "") or type(state).__name__
    )


def mean_and_range(values: torch.Tensor) -> str:
    """As "mean 0.12, from 0.1 to 0.2": of (B,) numbers."""
    v = values.detach().double()
    if not v.numel():
        return "of none"
    return f"mean {v.mean():.3g}" + (f", from {v.min():.3g} to {v.max():.3g}" if v.numel() > 1 else "")


def brief(value: Any) -> str:
    """A field's value in a few words: of tensors their form, of (B,) numbers their mean and range."""
    if isinstance(value, torch.Tensor):
        if value.numel() == 1 and not value.dtype.is_complex:
            return f"{value.item():.4g}"
        return mean_and_range(value) if value.ndim == 1 and value.is_floating_point() else form(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, dict | list | tuple):
        tensors = any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(value))
        return form(value) if tensors else f"{len(value)} of them" if value else "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, torch.nn.Module):
        return type(value).__name__
    return getattr(value, "__name__", None) or one_line(repr(value))


class Shown:
    """A dataclass, made with repr=False, that shows its public fields, and of tensors never the numbers."""

    def __repr__(self) -> str:
        return one_line(
            f"<{type(self).__name__}: {', '.join(f'{name} {said}' for name, said in self._said())}>"
        )

    def _repr_html_(self) -> str:
        return table((type(self).__name__, ""), self._said())

    def _said(self) -> Iterator[tuple[str, str]]:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name, None)
            if field.name.startswith("_") or value is None:
                continue
            try:
                yield field.name, brief(value)
            except (
                Exception
            ):  # a repr is asked for by debuggers, of what cannot be read too: meta, sparse, under vmap
                yield field.name, form(value)
