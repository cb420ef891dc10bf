"""What newcomers write by mistake, run one by one without the suite's type checker, as they run it.

As a script: reads {name: code} as JSON, writes {name: what was raised or warned} as JSON.
"""

import json
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Mapping

ROOT = pathlib.Path(__file__).parents[2]
SETUP = """
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pullback.adjoint import *
from pullback.guidance import *
from pullback.guidance import edit
from pullback.solvers import *


class Network(nn.Module):
    def __init__(self, extra=0):
        super().__init__()
        self.body = nn.Linear(3 + extra, 2)

    def forward(self, x, t):
        return self.body(torch.cat([x, t[:, None]], 1))


class Conditional(Network):
    def __init__(self):
        super().__init__(extra=2)

    def forward(self, x, t, cond):
        return self.body(torch.cat([x, t[:, None], cond], 1))


class Labelled(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 2)

    def forward(self, x, t, cond):
        return x + self.table(cond)


class Timed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 2)

    def forward(self, x, t):
        return x + self.table(t)


class Named(nn.Module):
    def forward(self, x, t, text):
        return x + text.mean()


net, process, grid = Network(), VP(), UniformLambda(4, start=1.0, end=0.03)
denoiser, conditional = Denoiser(net, process, V), Denoiser(Conditional(), process, V)
plan, noisy = DPMSolverPP(2).plan(process, grid), DDPM().plan(process, grid)
table = DiscreteVP(torch.linspace(0.9999, 0.005, 1000, dtype=torch.float64))
x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
seen = Measurement(Mask(torch.tensor([True, False])), torch.zeros(1, 2), noise_std=0.1)
leaf = x.clone().requires_grad_()
loss = lambda x: x.square().sum(1)
quiet = {"steps": 1, "progress": False}
"""


def said(codes: Mapping[str, str]) -> dict[str, str]:
    """By name what each piece of code raised, "TypeError: ...", or warned of; "" where it ran in silence."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(codes),
        text=True,
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _outcome(code: str) -> str:
    names: dict[str, object] = {"__name__": "__main__"}
    exec(SETUP, names)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            exec(code, names)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return next((f"{w.category.__name__}: {w.message}" for w in warned), "")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    print(json.dumps({name: _outcome(code) for name, code in json.load(sys.stdin).items()}))
