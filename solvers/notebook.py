"""How results show themselves where they are the last line of a cell: one line, and a table."""

import html
from collections.abc import Iterable, Sequence
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
    return f"mean {v.mean():.3g}" + (f", from {v.min():.3g} to {v.max():.3g}" if v.numel() > 1 else "")
