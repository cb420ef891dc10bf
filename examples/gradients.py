"""Gradient strategies compared through the faces model: the gradient itself, live tensor memory, and time."""

# %%
import time

import torch
from common import options, write

from pullback.adjoint import Checkpoint, Direct, Truncated, sample
from pullback.solvers import DPMSolverPP, UniformLambda
from pullback.zoo import denoiser

STRATEGIES = {
    "Direct": Direct(),
    "Checkpoint": Checkpoint(),
    "Checkpoint, offload": Checkpoint(offload=True),
    "Truncated(5)": Truncated(5),
}


class Live:
    """Bytes of distinct storages that autograd saved, while the context is open."""

    def __enter__(self):
        self.seen: dict[int, int] = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda t: t)
        self.hooks.__enter__()
        return self

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def __exit__(self, *error):
        self.hooks.__exit__(*error)


def main() -> None:
    run = options(__doc__, steps=20)
    model = denoiser("faces")
    model.network.to(run.device)  # type: ignore[attr-defined]
    plan = DPMSolverPP(2).plan(model.process, UniformLambda(run.steps, start=1.0, end=0.03))
    start = torch.randn(1, 1, 25, 25, generator=torch.Generator().manual_seed(run.seed)).to(run.device)
    rows, exact = {}, None
    for name, strategy in STRATEGIES.items():
        controls = torch.zeros(plan.steps, *start.shape, device=run.device, requires_grad=True)
        began = time.perf_counter()
        with Live() as live:
            out = sample(model, plan, start, controls=controls, gradient=strategy)
        (grad,) = torch.autograd.grad(out.square().sum(), controls)
        seconds = time.perf_counter() - began
        exact = grad if exact is None else exact
        late = grad[-5:], exact[-5:]
        rows[name] = {
            "relative_error_last_5_steps": float((late[0] - late[1]).norm() / late[1].norm()),
            "norm_per_step": grad.flatten(1).norm(dim=1).tolist(),
            "saved_MiB": sum(live.seen.values()) / 2**20,
            "seconds": seconds,
        }
        print(
            f"{name:20s} error {rows[name]['relative_error_last_5_steps']:.1e}"
            f"  activations kept {rows[name]['saved_MiB']:7.1f} MiB  {seconds:.2f} s"
        )
    write(run.out, "gradients", draw(rows), rows)


def draw(rows):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), gridspec_kw={"wspace": 0.65})
    for (name, row), style in zip(rows.items(), ("-", "--", ":", "-"), strict=True):
        left.plot(row["norm_per_step"], style, label=name, lw=2)
    left.set(xlabel="step (noise to data)", ylabel="norm of the gradient at the step's control")
    left.legend(frameon=False)
    bars = right.barh(list(rows), [row["saved_MiB"] for row in rows.values()], color="#1f4e79")
    right.bar_label(bars, fmt="%.1f", padding=3)
    right.invert_yaxis()
    right.set(xlabel="activations kept until backward, MiB")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
