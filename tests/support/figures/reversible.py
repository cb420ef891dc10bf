"""docs/reversible.md"""

from figures.figure import Row, Stated
from figures.results import results

found = results("round_trip")
NAMES = {
    "`ReversibleHeun()`": "ReversibleHeun(noise_side=False)",
    "`ReversibleHeun(noise_side=True)`": "ReversibleHeun(noise_side=True)",
    "`OBELM()`": "OBELM()",
    "`BDIA()`": "BDIA(gamma=1.0)",
    "`BDIA(0.5)`": "BDIA(gamma=0.5)",
    "`EDICT()`": "EDICT(p=0.93)",
    "`Coupled(DDIM())`": "Coupled(base=DDIM(eta=0.0), zeta=0.999)",
    "`Coupled(DPMSolverPPSingle(2))`": "Coupled(base=DPMSolverPPSingle(order=2, exact=False), zeta=0.999)",
    "`Rex()`": "Rex(stages=<Stages.EULER: 'euler'>, sde=False, zeta=0.999)",
    "`Rex(Stages.MIDPOINT)`": "Rex(stages=<Stages.MIDPOINT: 'midpoint'>, sde=False, zeta=0.999)",
    "`DDIM(), inverted`": "DDIM(eta=0.0)",
    "`DPMSolverPP(2), inverted`": "DPMSolverPP(order=2, exact=False, starter=False, cap=2.5)",
}
CELLS = ("nfe", "float64", "float32", "bf16", "stored in float32")

FIGURES = [
    Row(f"| {label}, {steps} steps |", *(row[cell] for cell in CELLS if cell in row))
    for steps in (20, 50)
    for label, row in ((label, found[f"{name} {steps}"]) for label, name in NAMES.items())
]
STATED = [Stated("<2> x base", "calls a step, by construction")]
