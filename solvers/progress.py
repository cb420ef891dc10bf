"""The progress bar: of the notebook in a notebook, of the terminal elsewhere."""

import functools
import warnings
from typing import Any


@functools.cache
def _tqdm() -> Any:
    with warnings.catch_warnings():
        # a notebook without ipywidgets gets the terminal's bar; that is no reason for a warning at the first `sample`
        warnings.filterwarnings("ignore", message="IProgress not found")
        from tqdm.auto import tqdm
    return tqdm


def progress_bar(*args: Any, **options: Any) -> Any:
    """`tqdm.auto.tqdm(*args, **options)`, loaded when the first bar is asked for."""
    return _tqdm()(*args, **options)
