"""The tables of docs/benchmarks.md, and the sentences that say who is ahead, from results alone."""

from collections.abc import Mapping, Sequence
from typing import Any

BUDGETS = (12, 24, 48, 96)
CHECKPOINTED = "diffusers' loop, torch.utils.checkpoint"
Row = dict[str, Any]


def table(heads: str, rows: Sequence[Sequence[str]]) -> str:
    names = heads.split("; ")
    return "\n".join(f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *rows))


def spread(value: Mapping[str, float], unit: str = "") -> str:
    """1.2 [1.1, 1.3], small times in ms."""
    scale, unit = (1e3, "ms") if unit == "s" and value["median"] < 1 else (1.0, unit)
    numbers = [f"{scale * value[name]:.3g}" for name in ("median", "q1", "q3")]
    return f"{numbers[0]}{' ' + unit if unit else ''} [{numbers[1]}, {numbers[2]}]"


def short(method: str) -> str:
    """A plan's method without what stands at its default."""
    name, _, rest = method.partition("(")
    order = rest.partition(",")[0].rstrip(")")
    return (
        f"{name}({order.partition('=')[2]})"
        if order.partition("=")[0] in ("order", "predictor", "tableau")
        else name
    )


def accuracy(rows: list[Row]) -> str:
    cells: dict[tuple[str, str, str], dict[int, Row]] = {}
    for row in rows:
        key = (
            row["side"],
            short(row["method"]) if row["side"] == "pullback" else row["method"],
            row["gradient"],
        )
        kept = cells.setdefault(key, {})
        kept[row["budget"]] = min(kept.get(row["budget"], row), row, key=lambda each: each["x_error"])
    lines = []
    for (side, method, gradient), by in cells.items():
        found = [by.get(n) for n in BUDGETS]
        said = [f"{r['x_error']:.1e} / {r['weights_error']:.1e}" if r else "" for r in found]
        lines.append([side, method, f"`{gradient}`", *said])
    return table(f"side; method; gradient; {'; '.join(f'N = {n}' for n in BUDGETS)}", lines)


def sde(rows: list[Row]) -> str:
    budgets = sorted({row["budget"] for row in rows})
    cells: dict[tuple[str, str, str], dict[int, Row]] = {}
    for row in rows:
        cells.setdefault((row["side"], short(row["method"]), row["gradient"]), {})[row["budget"]] = row
    lines = [
        [
            *key[:2],
            f"`{key[2]}`",
            *(f"{by[n]['x_error']:.1e} / {by[n]['weights_error']:.1e}" for n in budgets),
        ]
        for key, by in cells.items()
    ]
    return table(f"side; method; gradient; {'; '.join(f'about {n} calls' for n in budgets)}", lines)


def timed(rows: Mapping[str, Row]) -> str:
    peaks = next(iter(rows.values())).get("peak_MiB", {})
    off, compiled = (any(name in row for row in rows.values()) for name in ("off", "compile_seconds"))
    lines = []
    for name, row in rows.items():
        line = [name, spread(row["seconds"], "s"), spread(row["ratio"])]
        line += [f"{row['off']:.0e}"] if off else []
        line += [f"{row['compile_seconds']:.1f} s" if "compile_seconds" in row else ""] if compiled else []
        lines.append([*line, *(f"{row['peak_MiB'][n]:.0f} MiB" for n in peaks)])
    heads = ["way", "a value and gradient", "over `Checkpoint`", *["off"] * off, *["to compile"] * compiled]
    return table("; ".join([*heads, *(f"peak, {n} steps" for n in peaks)]), lines)


def times(sizes: Mapping[str, Any]) -> str:
    return "\n\n".join(
        f"{size.capitalize()}: batch {found['batch']}, {found['state']} numbers a state, layers of {found['width']}, "
        f"{found['steps']} steps.\n\n{timed(found['rows'])}"
        for size, found in sizes.items()
    )


def overhead(rows: Mapping[str, Any]) -> str:
    sizes = list(next(iter(rows.values())))
    lines = [
        [
            name,
            *(
                f"{row[s]['ours_us']:.0f} / {row[s]['diffusers_us']:.0f} us = {row[s]['ratio']:.2f}"
                for s in sizes
            ),
        ]
        for name, row in rows.items()
    ]
    return table(f"method; {'; '.join(sizes)}", lines)


def inverse(errors: Mapping[str, Any]) -> str:
    lines = [
        [
            kind,
            steps,
            *(
                f"{rows[side]['mean']:.3g} (weight {rows[side]['scale']:g})"
                for side in ("pullback", "deepinv")
            ),
        ]
        for kind, by in errors.items()
        for steps, rows in by.items()
    ]
    return table("denoiser; calls; pullback; deepinv", lines)


def growth(slopes: Mapping[str, Any]) -> str:
    names = {"steps": "steps", "batch": "batch", "width": "parameters", "side": "state"}
    strategies = list(next(iter(slopes.values())))
    lines = [
        [
            f"`{name}`",
            *(f"{slopes[a][name]['seconds']:.2f} / {slopes[a][name]['peak_MiB']:.2f}" for a in slopes),
        ]
        for name in strategies
    ]
    return table(f"time / peak; {'; '.join(names[a] for a in slopes)}", lines)


def a_step(points: Mapping[str, Row]) -> float:
    """KiB by which the peak grows in a step, from 1000 to 10,000."""
    return (points["10000"]["peak_MiB"] - points["1000"]["peak_MiB"]) * 1024 / 9000


def ranks(rows: Mapping[str, Row]) -> str:
    lines = [
        [n, f"{r['seconds']:.2f} s", f"{r['speedup']:.2f}", f"{r['share_alone']:.2f} s", f"{r['off']:.0e}"]
        for n, r in rows.items()
    ]
    return table("processes; a value and gradient; faster by; a share alone; gradient's norm off", lines)


def models(found: list[Row]) -> str:
    lines = [
        [m["name"], f"{m['weights'] / 1e9:.1f} G, {m['met'] / 1e9:.1f} G", f"{m['lora'] / 1e6:.0f} M",
         " x ".join(map(str, m["latent"])), f"{m['state_bytes'] / 2**20:.1f} MiB", f"{m['tokens']:,}",
         f"{m['calls']} x {m['flops'] / 1e12:.0f} Tflop",
         f"{m['calls'] * m['activation_bytes'] / 1e9:.0f} / {m['calls'] * m['activation_bytes_saved'] / 1e9:.0f} GB"]
        for m in found
    ]  # fmt: skip
    heads = "model; weights, a token meets; LoRA; latent; a state; tokens; a step; "
    return table(heads + "activations, plain / blocks checkpointed", lines)


def on_paper(rows: list[Row]) -> str:
    """A line for each model and layout; numbers of steps side by side in its cells."""
    together: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        together.setdefault((row["model"], row["layout"]), []).append(row)
    lines = []
    for (model, layout), each in together.items():
        items, ways = each[0]["bytes"], [row["ways"] for row in each]
        shared = items["weights"] + items["gathered"] + items["lora"]
        kept = " / ".join(f"{row['bytes']['states_checkpoint'] / 1e9:.2f}" for row in each)
        seconds = []
        for name in ways[0]:
            some = " / ".join(f"{w[name]['seconds']['total']:,.0f}" for w in ways)
            every = " / ".join(f"{w[name]['seconds_all_weights']:,.0f}" for w in ways)
            seconds.append(f"{some} ({every})")
        lines.append([
            model, layout, f"{shared / 1e9:.1f} (+ {items['all_weights_instead'] / 1e9:.0f})",
            f"{items['activations'] / 1e9:.0f}{', blocks' if each[0]['blocks_checkpoint'] else ''}",
            f"{kept}; {items['states_reversible'] / 1e9:.2f}",
            "yes" if all(way["fits"] for w in ways for way in w.values()) else "no", *seconds,
        ])  # fmt: skip
    steps = " / ".join(str(row["steps"]) for row in next(iter(together.values())))
    heads = (
        "model; GPUs; weights and LoRA (+ all weights); activations; states: `Checkpoint`, `Reversible`; fits"
    )
    return table("; ".join([heads, *(f"{name}, s, {steps} steps" for name in rows[0]["ways"])]), lines)


def direct(rows: list[Row]) -> str:
    found = {f"{r['model']}, {r['steps']} steps": r["bytes_direct"] for r in rows if r["layout"] == "8"}
    return "; ".join(f"{value / 1e9:,.0f} GB ({name})" for name, value in found.items() if "20 steps" in name)


def scripts(bench: Mapping[str, Any], others: Mapping[str, float | None], took: Mapping[str, Any]) -> str:
    def minutes(name: str) -> str:
        if name in took and took[name]["end"] == 0:
            return f"{took[name]['seconds'] / 60:.1f} ({took[name]['processor_seconds'] / 60:.1f} of the processor)"
        return f"{others[name]:g}, noted" if others.get(name) else ""

    rows = [[f"`{n}.py`", ", ".join(peers), minutes(n) or "not timed yet"] for n, (_, peers) in bench.items()]
    first = table("in `make bench`; beside; minutes", rows)
    second = table("by itself; minutes", [[f"`{n}.py`", minutes(n)] for n in others if minutes(n)])
    rest = ", ".join(f"`{n}.py`" for n in others if not minutes(n))
    return f"{first}\n\n{second}\n\nNot timed yet: {rest}."


# where a peer is ahead
# ----------------------------------------------------------------------------------------------------------------


def in_front(peers: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Where this library is ahead, a line for each thing it is for, from the figures below it."""
    rows, said = peers["accuracy"]["rows"], []
    for n in BUDGETS:
        best: dict[str, float] = {}
        for row in rows:
            if row["budget"] == n:
                best[row["side"]] = min(row["x_error"], best.get(row["side"], row["x_error"]))
        others = {side: error for side, error in best.items() if side != "pullback"}
        if others and best["pullback"] < min(others.values()):
            beside = ", ".join(f"{side} {error:.1e}" for side, error in others.items())
            said.append(f"{best['pullback']:.1e} at N = {n} ({beside})")
    quick = [sum(row[size]["ratio"] < 1 for row in own.values()) for size in ("1x4x64x64", "1x16x128x128")]
    least = min(row[size]["ratio"] for row in own.values() for size in row)
    loop = peers["scheduler"]["rows"]
    return (
        f"- **Error of the gradient at equal calls**, best of each side at the noise: {'; '.join(said) or 'nowhere'}.\n"
        f"- **Own time of a step** beside diffusers' schedulers: less for {quick[0]} of {len(own)} methods on a small "
        f"state and {quick[1]} on a larger one, down to {least:.2f} of theirs.\n"
        "- **Memory through a diffusers loop** of 50 steps: "
        f"{loop['pullback, Checkpoint']['peak_MiB']['50']:.0f} MiB, with `torch.utils.checkpoint` around the network "
        f"{loop[CHECKPOINTED]['peak_MiB']['50']:.0f}, both with the same gradient."
    )


def ahead(peers: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """A line for each peer, from the figures below it."""
    rows, lines = peers["accuracy"]["rows"], []
    for side in ("torchdiffeq", "diffrax"):
        if side in peers["accuracy"]["left_out"] or side in peers["times"]["left_out"]:
            lines.append(f"- **{side}** was not installed when this was measured.")
            continue
        said = []
        for n in BUDGETS:
            ours, theirs = (
                min(
                    (r for r in rows if r["budget"] == n and r["side"] == s),
                    key=lambda r: r["x_error"],
                    default=None,
                )
                for s in ("pullback", side)
            )
            if ours and theirs and theirs["x_error"] < ours["x_error"]:
                back = (
                    f", {theirs['calls_back']} calls back, ours {ours['calls_back']}"
                    if "calls_back" in theirs
                    else ""
                )
                said.append(
                    f"{theirs['x_error']:.1e} against {ours['x_error']:.1e} at N = {n} ({theirs['method']}, "
                    f"`{theirs['gradient']}`{back})"
                )
        text = f"Error at the noise, best of each side: {side} is "
        text += f"ahead with {'; '.join(said)}." if said else "not ahead at any N here."
        quick = [
            f"{name.removeprefix(side + ', ')} {row['ratio']['median']:.2f} ({size})"
            for size, found in peers["times"].items()
            if size in ("small", "large")
            for name, row in found["rows"].items()
            if name.startswith(side + ", ") and row["ratio"]["q3"] < 1
        ]
        text += f" Time over `Checkpoint`'s: {', '.join(quick) or 'nowhere below 1'}"
        own_direct = [
            f"{peers['times'][z]['rows']['pullback, Direct']['ratio']['median']:.2f}"
            for z in ("small", "large")
        ]
        text += f"; our `Direct` {' and '.join(own_direct)}." if quick else "."
        kept = peers["times"]["large"]["rows"]
        least = kept["pullback, Checkpoint"]["peak_MiB"]["200"]
        small = [
            f"{name.removeprefix(side + ', ')} {row['peak_MiB']['200']:.0f} MiB"
            for name, row in kept.items()
            if name.startswith(side + ", ") and row["peak_MiB"]["200"] < least
        ]
        text += f" Peak at 200 steps: {', '.join(small)}; `Checkpoint` {least:.0f}." if small else ""
        lines.append(f"- **{side}**. {text}")
    lines.append(f"- **torchsde**. {_torchsde(peers['sde'])}")
    slow = [
        f"{name} {row[size]['ratio']:.2f} ({size})"
        for name, row in own.items()
        for size in row
        if row[size]["ratio"] > 1
    ]
    loop = peers["scheduler"]["rows"][CHECKPOINTED]
    lines.append(
        "- **diffusers**. A step of ours takes longer: "
        + (", ".join(slow) or "nowhere")
        + ". A loop by hand with "
        f"`torch.utils.checkpoint` around the network takes {spread(loop['ratio'])} of `Checkpoint`'s time, its peak "
        f"at 50 steps is {loop['peak_MiB']['50']:.0f} MiB against "
        f"{peers['scheduler']['rows']['pullback, Checkpoint']['peak_MiB']['50']:.0f}."
    )
    worse = [
        f"{kind}, {steps} calls: {by['deepinv']['mean']:.3g} against {by['pullback']['mean']:.3g}"
        for kind, every in peers["inverse"]["errors"].items()
        for steps, by in every.items()
        if by["deepinv"]["mean"] < by["pullback"]["mean"]
    ]
    ratio = peers["inverse"]["times"]["deepinv, DPS, float64"]["ratio"]
    said = f"ahead {'; '.join(worse) or 'nowhere here'}"
    far = max(
        abs(a - b) for every in peers["inverse"]["errors"]["mixture"].values() for by in every.values()
        for a in by["errors"] for b in by["errors"]
    )  # fmt: skip
    lines.append(
        f"- **deepinv**. Error of DPS: {said}; single measurements on the mixture lie up to {far:.1f} apart. "
        f"Its run takes {spread(ratio)} of ours."
    )
    return "\n".join(lines)


def _torchsde(found: Mapping[str, Any]) -> str:
    euler = {
        n: min(
            (r for r in found["rows"] if r["side"] == "torchsde" and r["budget"] == n),
            key=lambda r: r["x_error"],
        )
        for n in sorted({r["budget"] for r in found["rows"]})
    }
    plain = {r["budget"]: r for r in found["rows"] if r["method"].startswith("EulerMaruyama")}
    said = "; ".join(
        f"{row['x_error']:.1e} ({row['method']}) against {plain[n]['x_error']:.1e} at about {n} calls"
        for n, row in euler.items()
        if row["x_error"] < plain[n]["x_error"]
    )
    text = f"Beside our Euler-Maruyama its other rules have less error at x: {said}." if said else ""
    quick = [
        f"{name.removeprefix('torchsde, ')} {row['ratio']['median']:.2f} ({size})"
        for size, each in found["times"].items()
        for name, row in each["rows"].items()
        if name.startswith("torchsde") and row["ratio"]["q3"] < 1
    ]
    return f"{text} Time over `Checkpoint`'s: {', '.join(quick) or 'nowhere below 1'}."
