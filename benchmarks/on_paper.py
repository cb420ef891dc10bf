"""Arithmetic, no measurement: what a gradient through Flux and through a 14 B video model takes on 8 and 64 GPUs.

    python benchmarks/on_paper.py      writes benchmarks/results/on_paper.json

Weights and states follow from the published shapes below. Everything else is an assumption with its reason:

    flops of a call      2 x the weights that a token meets x tokens, and 4 tokens^2 d for each layer of attention
    backward             1 call for what enters (frozen weights, LoRA), 2 with the gradients of all weights
    GPU                  80 GB; 989e12 dense bf16 flop/s (the H100's data sheet) at MFU 0.4
    links                450e9 byte/s each way within 8 GPUs (NVLink 4), 50e9 byte/s a GPU between nodes (400 Gbit/s)
    activations          34 d bytes a token and block in bf16 with fused attention (Korthikanti et al. 2022, arXiv
                         2205.05198, eq. 2 without the attention matrix); with the blocks' own checkpointing 2 d bytes a
                         token and block, one block in full, and one more forward pass in the backward pass
    engine               FSDP2: weights, gradients and optimiser in equal shares, each block gathered before use, the
                         next one fetched meanwhile; every GPU has a sample of its own
    LoRA                 rank 32 on q, k, v and out of self-attention; bf16 weight, and in float32 master weight,
                         gradient and Adam's two moments: 18 bytes each. All weights: the same 18 bytes each
    states               float32, one for each network call (Checkpoint); two in float64 (Reversible)

Left out: text encoders and VAE (run before and after, elsewhere or in turn), the reward, allocator losses, latency.
"""

import json
import pathlib
from dataclasses import asdict, dataclass
from typing import Any

PATH = pathlib.Path(__file__).parent / "results" / "on_paper.json"
FLOPS, MFU, MEMORY, NODE = 989e12, 0.4, 80e9, 8
NVLINK, NETWORK, RANK, DRAFT = 450e9, 50e9, 32, 1
LAYOUTS = {"8": (8, 1), "64": (64, 1), "8 x 8 replicas": (8, 8)}  # GPUs that share the weights, and copies
STEPS = (20, 50)


@dataclass(frozen=True)
class Model:
    """A transformer over latents.

    Args:
        weights: all of them. met: those that one token meets. lora: parameters at RANK. blocks, width: its shape.
        latent: channels, and frames, rows, columns where there are. tokens: of the state and of text where they attend
            together. calls: network calls a step, 2 with classifier-free guidance.
    """

    name: str
    weights: float
    met: float
    lora: float
    blocks: int
    width: int
    latent: tuple[int, ...]
    tokens: int
    calls: int

    @property
    def numbers(self) -> int:
        """Of one state."""
        found = 1
        for size in self.latent:
            found *= size
        return found

    @property
    def flops(self) -> float:
        return 2 * self.met * self.tokens + 4 * self.tokens**2 * self.width * self.blocks

    def activations(self, saved: bool) -> float:
        """Bytes that one call keeps for its VJP; saved: the blocks checkpoint themselves."""
        a_block = 34 * self.width * self.tokens
        return a_block + 2 * self.width * self.tokens * self.blocks if saved else a_block * self.blocks


def flux() -> Model:
    """FLUX.1: 19 blocks with a stream each for image and text, 38 with one; 1024^2, 512 tokens of text."""
    d, double, single = 3072, 19, 38
    streams = 4 + 8  # q, k, v, out and the MLP, in d^2
    weights = (
        double * 2 * (streams + 6) + single * (streams + 3)
    ) * d**2  # modulation: 6 or 3, once a sample
    lora = (double * 2 * 4 * 2 + single * (3 * 2 + 6)) * RANK * d  # out of a single block: 5 d to d
    latent = (16, 1024 // 8, 1024 // 8)
    tokens = (1024 // 8 // 2) ** 2 + 512
    return Model(
        "Flux 12 B, 1024 x 1024", weights, (double + single) * streams * d**2, lora, 57, d, latent, tokens, 1
    )


def video(rows: int, columns: int, frames: int = 81) -> Model:
    """A Wan-2.1-like model: 40 blocks of width 5120, MLP 13824, VAE 4 x 8 x 8, patches 1 x 2 x 2, guidance."""
    d, mlp, blocks = 5120, 13824, 40
    weights = blocks * (8 * d**2 + 2 * d * mlp)
    met = blocks * (6 * d**2 + 2 * d * mlp)  # keys and values of the text are made once a sample
    latent = (16, (frames - 1) // 4 + 1, rows // 8, columns // 8)
    tokens = latent[1] * (latent[2] // 2) * (latent[3] // 2)
    lora = blocks * 4 * 2 * RANK * d
    return Model(
        f"video 14 B, {frames} frames of {columns} x {rows}", weights, met, lora, blocks, d, latent, tokens, 2
    )


MODELS = (flux(), video(480, 832), video(720, 1280))


def memory(model: Model, layout: str, steps: int, saved: bool) -> dict[str, float]:
    """Bytes on one GPU, item by item."""
    share, _ = LAYOUTS[layout]
    return {
        "weights": 2 * model.weights / share,
        "gathered": 2 * 2 * model.weights / model.blocks,
        "lora": 18 * model.lora / share,
        "all_weights_instead": 18 * model.weights / share - 2 * model.weights / share,
        "states_checkpoint": 4.0 * model.numbers * (steps + 1),
        "states_reversible": 2 * 8.0 * model.numbers,
        "activations": model.activations(saved) * model.calls,
    }


def seconds(
    model: Model, layout: str, steps: int, saved: bool, last: int | None, full: bool
) -> dict[str, float]:
    """Of a value and gradient of one sample a GPU; last: steps that are differentiated, None for all.

    A call, its replay and its VJP each gather the weights once; what is slower, computing or gathering, is what counts.
    """
    share, _ = LAYOUTS[layout]
    call = model.calls * model.flops / (MFU * FLOPS)
    gather = 2 * model.weights * (share - 1) / share / (NVLINK if share <= NODE else NETWORK)
    graph = steps if last is None else last
    back = (2 if full else 1) + saved
    computing = call * (steps + graph * (1 + back))
    total = steps * max(call, gather) + graph * (max(call, gather) + max(back * call, gather))
    return {"call": call, "gather": gather, "computing": computing, "total": total}


def rows() -> list[dict[str, Any]]:
    found = []
    for model in MODELS:
        for layout in LAYOUTS:
            for steps in STEPS:
                saved = model.activations(False) * model.calls > 0.4 * MEMORY
                items = memory(model, layout, steps, saved)
                common = sum(items[name] for name in ("weights", "gathered", "lora", "activations"))
                kept = {"Checkpoint": items["states_checkpoint"], "Reversible": items["states_reversible"]}
                kept["DRaFT-1"] = 4.0 * model.numbers
                found.append(
                    {"model": model.name, "layout": layout, "steps": steps, "blocks_checkpoint": saved, "bytes": items,
                     "bytes_direct": model.activations(False) * model.calls * steps,
                     "ways": {
                         name: {
                             "bytes": common + states, "fits": common + states < MEMORY,
                             "seconds": seconds(model, layout, steps, saved, DRAFT if "DRaFT" in name else None, False),
                             "seconds_all_weights": seconds(
                                 model, layout, steps, saved, DRAFT if "DRaFT" in name else None, True
                             )["total"],
                         }
                         for name, states in kept.items()
                     }}
                )  # fmt: skip
    return found


def main() -> None:
    assumed = {"flop_per_second": FLOPS, "mfu": MFU, "bytes_of_a_gpu": MEMORY, "nvlink": NVLINK, "network": NETWORK,
               "lora_rank": RANK}  # fmt: skip
    models = [{**asdict(m), "numbers": m.numbers, "flops": m.flops, "state_bytes": 4 * m.numbers,
               "activation_bytes": m.activations(False), "activation_bytes_saved": m.activations(True)}
              for m in MODELS]  # fmt: skip
    facts = {
        "kind": "arithmetic, nothing here was measured",
        "assumed": assumed,
        "models": models,
        "rows": rows(),
    }
    PATH.write_text(json.dumps(facts, indent=1) + "\n")
    for row in facts["rows"]:
        ways = {
            n: (f"{w['bytes'] / 1e9:.0f} GB", f"{w['seconds']['total']:.0f} s")
            for n, w in row["ways"].items()
        }
        print(row["model"], row["layout"], row["steps"], ways)


if __name__ == "__main__":
    main()
