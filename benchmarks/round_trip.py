"""Data to noise and back on the faces model: relative error of the returned image, every reversible method beside DDIM.

    python benchmarks/round_trip.py

writes benchmarks/results/round_trip.json and prints the table of docs/reversible.md

Columns: the network in float64, float32, and under bf16 autocast with a float32 state (all carried in float64
between the calls), and the float32 network with the carried states stored as float32 in between, as a file of
latents would.
"""

import json
import pathlib
from typing import Any

import torch

from pullback.solvers import (
    BDIA,
    DDIM,
    EDICT,
    OBELM,
    Coupled,
    Denoiser,
    DPMSolverPP,
    DPMSolverPPSingle,
    ReversibleHeun,
    Rex,
    Rising,
    Stages,
    UniformLambda,
    decode,
    encode,
    run,
)

HERE = pathlib.Path(__file__).parent
METHODS = [
    ReversibleHeun(),
    ReversibleHeun(noise_side=True),
    OBELM(),
    BDIA(),
    BDIA(0.5),
    EDICT(),
    Coupled(),
    Coupled(DPMSolverPPSingle(2)),
    Rex(),
    Rex(Stages.MIDPOINT),
]
PRECISIONS = {
    "float64": (torch.float64, False),
    "float32": (torch.float32, False),
    "bf16": (torch.float32, True),
}
INEXACT = [DDIM(), DPMSolverPP(2)]
ENDS = (0.03, 1.0)


def main() -> None:
    from pullback.zoo import denoiser, face_images

    torch.set_num_threads(1)
    base, faces = denoiser("faces"), face_images()[:8]
    network: Any = base.network

    def model(dtype):
        return Denoiser(network.to(dtype), base.process, base.prediction)

    def error(back):
        return float((back.double() - faces.double()).norm() / faces.double().norm())

    def half(on):
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=on, cache_enabled=False)

    rows = {}
    with torch.no_grad():
        for steps in (20, 50):
            for method in METHODS + INEXACT:
                grid = UniformLambda(steps, start=ENDS[1], end=ENDS[0])
                up, down = (method.plan(base.process, each) for each in (Rising(grid), grid))
                row: dict[str, float] = {"nfe": up.nfe}
                registers: dict[str, torch.Tensor] = {}
                for name, (dtype, autocast) in PRECISIONS.items():
                    net, x = model(dtype), faces.to(dtype)
                    with half(autocast):
                        if method in INEXACT:
                            latent = run(net, up, x)
                            row[name] = error(run(net, down, latent))
                        else:
                            registers = encode(net, up, x)
                            latent = registers["x"]
                            row[name] = error(decode(net, up, registers, dtype=dtype))
                    if name == "float32":
                        row["latent std"] = float(latent.std())
                        if method not in INEXACT:
                            stored = {key: value.float() for key, value in registers.items()}
                            row["stored in float32"] = error(decode(net, up, stored, dtype=dtype))
                rows[f"{method} {steps}"] = row
    print("| method, steps | NFE | float64 | float32 | bf16 autocast | stored as float32 | latent std |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        stored = f"{row['stored in float32']:.1e}" if "stored in float32" in row else ""
        method, steps = name.rsplit(" ", 1)
        print(
            f"| `{method}`, {steps} | {row['nfe']} | {row['float64']:.1e} | {row['float32']:.1e} | "
            f"{row['bf16']:.1e} | {stored} | {row['latent std']:.2f} |"
        )
    (HERE / "results" / "round_trip.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
