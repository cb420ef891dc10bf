"""Reflow: pairs (noise, sample) of a flow, joined by straight lines, teach a copy of it to sample in one step or two.

A flow's paths bend because training joined noise and data at random; its own pairs no longer cross, so a student of
them is nearly straight (Liu et al. 2022, arXiv 2209.03003). Teacher and student draw the same labels from the same
fresh noise at equal network calls. A classifier that neither has met judges: the Frechet distance of its features to
real digits', since by the label alone the teacher's one step, a mean of all digits of a kind, is read best of all.
Bend is how far the velocity strays from the chord of its own path.
"""

# %%
import copy
import time

import torch
import torch.nn.functional as F
from common import digits_grid, look, options, pyplot, write
from digit_samples import frechet
from safetensors.torch import save_file
from torch import Tensor, nn

from pullback.adjoint import sample, trajectory
from pullback.solvers import Addressed, Denoiser, FlowEuler, FlowMidpoint, Model, UniformT
from pullback.zoo import denoiser, digit_images, load

CALLS = (1, 2, 4, 20)
BATCH = 128


def drawn(
    model: Model, steps: int, first: int, count: int, seed: int, stream: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(noise, sample, label) of numbers first .. first + count - 1, by Euler steps; 20 and more by the midpoint rule.

    Noise goes by number: the same pair on any machine and for any batch, so a long export can be cut in pieces.
    """
    method, n = (FlowMidpoint(), steps // 2) if steps >= 20 else (FlowEuler(), steps)
    plan = method.plan(model.process, UniformT(n))
    device = next(model.parameters()).device
    numbers = torch.arange(first, first + count)
    noise = Addressed(seed, numbers.tolist(), stream=stream).initial(
        torch.zeros(count, 1, 8, 8, device=device)
    )
    labels = (numbers % 10).to(device)
    parts = zip(noise.split(500), labels.split(500), strict=True)
    ends = torch.cat([sample(model, plan, x, cond=y, gradient=None) for x, y in parts])
    return noise, ends, labels


def taught(
    teacher: Denoiser, noise: Tensor, ends: Tensor, labels: Tensor, updates: int, seed: int
) -> Denoiser:
    """A copy of the teacher's network, trained to noise - sample on the line between them: the flow's own loss, with
    pairs that belong together.
    """
    assert isinstance(teacher.network, nn.Module)
    network = copy.deepcopy(teacher.network).requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-3, total_steps=updates, pct_start=0.1)
    for _ in range(updates):
        pick = torch.randint(len(noise), (BATCH,), generator=generator).to(noise.device)
        t = torch.rand(BATCH, generator=generator).to(noise)
        x1, x0 = noise[pick], ends[pick]
        x = torch.lerp(x0, x1, t[:, None, None, None])
        loss = F.mse_loss(network(x, t, labels[pick]), x1 - x0)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return teacher.around(network.requires_grad_(False))


def seen(judge: nn.Module, x: Tensor) -> Tensor:
    """The classifier's last features, their mean over the plane (B, 64)."""
    return judge.body(x).mean((2, 3))  # type: ignore[operator]


def bend(model: Denoiser, noise: Tensor, labels: Tensor) -> float:
    """Mean of |u - chord|^2 along the model's own paths, over the mean of |chord|^2: 0 where one step is exact."""
    plan = FlowEuler().plan(model.process, UniformT(20))
    states = torch.stack(trajectory(model, plan, noise, range(plan.steps + 1), cond=labels, gradient=None))
    rates = states.diff(dim=0) / -(1 / plan.steps)  # Euler's: the velocity at each node
    chord = states[0] - states[-1]
    return float((rates - chord).square().mean() / chord.square().mean())


def main() -> None:
    run = options(__doc__, pairs=1500, updates=400, count=400)
    teacher = denoiser("digits_flow")
    teacher.network.to(run.device)  # type: ignore[attr-defined]
    judge = load("classifier1").to(run.device)
    began = time.perf_counter()
    noise, ends, labels = drawn(teacher, 20, 0, run.pairs, run.seed, stream=0)
    save_file({"noise": noise, "sample": ends, "label": labels}, run.out / "reflow_pairs.safetensors")
    exported = time.perf_counter() - began
    student = taught(teacher, noise, ends, labels, run.updates, run.seed)
    print(f"{run.pairs} pairs in {exported:.0f} s, {run.updates} updates in "
          f"{time.perf_counter() - began - exported:.0f} s")  # fmt: skip
    facts, sheets = {}, {}
    real = seen(judge, digit_images()[0].to(run.device))
    for name, model in (("teacher", teacher), ("student", student)):
        read, far = {}, {}
        for calls in CALLS:
            _, x, wanted = drawn(model, calls, 0, run.count, run.seed, stream=1)
            read[calls] = float((judge(x).argmax(1) == wanted).double().mean())
            far[calls] = frechet(seen(judge, x), real)
            sheets[name, calls] = x[:10]
            print(
                f"{name}, {calls:2d} calls: Frechet distance {far[calls]:.3f}, read as meant {read[calls]:.1%}"
            )
        fresh, _, wanted = drawn(model, 1, 0, 100, run.seed, stream=1)
        facts[name] = {"frechet": far, "read_as_meant": read, "bend": bend(model, fresh, wanted)}
        print(f"{name}: bend {facts[name]['bend']:.3f}")
    facts |= {"pairs": run.pairs, "updates": run.updates, "count": run.count}
    write(run.out, "reflow", draw(facts, sheets), facts)


def draw(facts, sheets):
    plt = pyplot()
    figure, (sheet, axis) = plt.subplots(1, 2, figsize=(10.5, 3.6), width_ratios=(1.5, 1))
    rows = [("teacher", 1), ("student", 1), ("teacher", 2), ("student", 2), ("teacher", 20)]
    digits_grid(sheet, [F.pad(sheets[row], (1, 1, 1, 1), value=-1.0) for row in rows])
    names = [f"{who}, {calls} call{'s' if calls > 1 else ''}" for who, calls in rows]
    sheet.set(yticks=[10 * k + 4.5 for k in range(len(rows))], yticklabels=names)
    sheet.tick_params(length=0, labelsize=10)
    for k, name in enumerate(("student", "teacher")):
        far = facts[name]["frechet"]
        label = f"{name}; bend of its paths {facts[name]['bend']:.3f}"
        axis.plot(list(far), list(far.values()), **look(k), label=label)
    axis.set(xscale="log", yscale="log", xlabel="network calls", ylabel="Fréchet distance to real digits")
    axis.set_xticks(CALLS, [str(calls) for calls in CALLS])
    axis.minorticks_off()
    axis.legend()
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
