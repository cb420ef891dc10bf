"""Grids that are legal and probably not what was meant."""

import warnings

from torch import Tensor

from .grid import GivenTimes, Grid, Times
from .process import DiscreteVP, Process

FAR = 2.0  # lambda of a start with less than an eighth of noise to data: even SDEdit starts with more
TOUCH = 0.1  # of the process's time: a strength that image-to-image is asked for on purpose


def warn_of(grid: Times, times: Tensor, process: Process) -> None:
    """UserWarning for times of [0, 1] on a table of steps, a rise that `Rising` does not announce, and a fall that
    starts next to the data.

    Args:
        times: the nodes of `grid`, checked.
    """
    reason = _on_a_table(grid, times, process) or _rises(grid, times) or _starts_far(grid, times, process)
    if reason:
        warnings.warn(f"grid: got {reason}", UserWarning, stacklevel=3)


def _between(times: Tensor) -> str:
    return f"times {float(times[0].flatten()[0]):.4g} to {float(times[-1].flatten()[0]):.4g}"


def _on_a_table(grid: Times, times: Tensor, process: Process) -> str:
    if not isinstance(process, DiscreteVP) or process.t_max < 10 or float(times.max()) > 1:
        return ""
    name = type(grid).__name__ if isinstance(grid, Grid) else "UniformLambda"
    last = process.t_max
    return (
        f"{_between(times)} on {process}, expected indices into its table, {last:g} (noise) to 0 (data): these two "
        f"levels are all but clean data; write {name}(n, start={last}, end=0.0), or Trailing(n)"
    )


def _rises(grid: Times, times: Tensor) -> str:
    if isinstance(grid, Grid) and grid.rises or not bool((times[-1] > times[0]).any()):
        return ""
    return (
        f"{_between(times)}, which rise from data to noise, expected falling ones to sample; swap start and end, or "
        "write Rising(grid) where data is to be encoded"
    )


def _starts_far(grid: Times, times: Tensor, process: Process) -> str:
    start = process.lam(times[0])
    if not isinstance(grid, Grid) or isinstance(grid, GivenTimes):  # whoever writes every time means them
        return ""
    far = (start > FAR) & (times[0] < TOUCH * process.t_max)
    if bool((times[-1] > times[0]).any()) or not bool(far.any()):
        return ""
    level = float((-start.max()).exp())
    return (
        f"{_between(times)} on {process}, where noise is {level:.2g} of the data already at the start, expected a "
        f"start near noise, at t={process.t_max:g}; leave start out for the whole way, or take a larger one"
    )
