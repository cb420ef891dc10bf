"""What users switch on in a pipeline's networks: memory savers, offloading, compilation, adapters, dropout."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pipelines.case import single, start
from pipelines.differentiated import NAMED, apart, found_in, loss_of, network, ours, theirs
from torch import nn

from pullback.adjoint import Checkpoint, Direct, Gradient, Mechanism, Reversible, sample
from pullback.solvers import ReversibleHeun, UniformT
from pullback.solvers.process import as_time

CPU = torch.device("cpu")


def accelerated(pipe: Any) -> None:
    """What `enable_sequential_cpu_offload` does, which itself fails where the device is the CPU."""
    from accelerate import cpu_offload

    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            cpu_offload(part, execution_device=CPU)


def mapped(pipe: Any) -> None:
    """What `device_map` leaves: hooks that carry inputs to where each network is."""
    from accelerate import dispatch_model

    for part in (network(pipe), pipe.vae):
        dispatch_model(part, device_map={"": "cpu"}, force_hooks=True)


def plain_attention(pipe: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    pipe.unet.set_attn_processor(AttnProcessor())


def blockwise(pipe: Any) -> None:
    how: Any = {"offload_type": "block_level", "num_blocks_per_group": 1}
    pipe.enable_group_offload(onload_device=CPU, offload_device=CPU, **how)


SETTINGS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "attention slicing": ("sd15", lambda pipe: pipe.enable_attention_slicing("max")),
    "attention processor": ("sd15", plain_attention),
    "FreeU": ("sd15", lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)),
    "channels last": ("sd15", lambda pipe: pipe.unet.to(memory_format=torch.channels_last)),
    "fused qkv, unet": ("sd15", lambda pipe: pipe.fuse_qkv_projections()),
    "fused qkv, sd3": ("sd3", lambda pipe: pipe.transformer.fuse_qkv_projections()),
    "fused qkv, flux": ("flux", lambda pipe: pipe.transformer.fuse_qkv_projections()),
    "model offload": ("sd15", lambda pipe: pipe.enable_model_cpu_offload(device="cpu")),
    "sequential offload, unet": ("sd15", accelerated),
    "sequential offload, flux": ("flux", accelerated),
    "device map": ("sd15", mapped),
    "group offload, leaves": (
        "sd3", lambda pipe: pipe.enable_group_offload(onload_device=CPU, offload_type="leaf_level")),
    "group offload, blocks": ("flux", blockwise),
    "chunked feed-forward": ("sd3", lambda pipe: pipe.transformer.enable_forward_chunking(1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_agrees_with_the_pipelines_own_loop_under(name: str):
    case, switch = NAMED[SETTINGS[name][0]], SETTINGS[name][1]
    with single():
        pipe = case.build()
        switch(pipe)
        value, gradient = apart(ours(case, pipe), theirs(case, pipe))
    assert value < 1e-5 and gradient < 1e-4


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_switched_on_after_from_diffusers(name: str):
    """The networks are the user's own: what is switched on in them counts at once."""
    case = NAMED[name]
    with single():
        pipe = case.build()
        found = found_in(case, pipe)
        before = ours(case, pipe, found)
        accelerated(pipe)
        assert apart(ours(case, pipe, found), before) < (1e-6, 1e-6)


STRATEGIES: dict[str, Gradient] = {
    "Direct": Direct(),
    "Checkpoint": Checkpoint(),
    "recursive": Checkpoint(recursive=True),
    "offload": Checkpoint(offload=True),
    "regions": Checkpoint(mechanism=Mechanism.REGION),
    "budget": Checkpoint(memory_budget=2**22),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_gradient_checkpointing(name: str, strategy: str):
    case = NAMED[name]
    with single():
        pipe = case.build()
        exact = ours(case, pipe, gradient=Direct())
        network(pipe).enable_gradient_checkpointing()
        network(pipe).train()  # else it does nothing
        assert network(pipe).is_gradient_checkpointing
        assert max(apart(ours(case, pipe, gradient=STRATEGIES[strategy]), exact)) < 1e-6


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_gradient_checkpointing_under_an_inverted_run(name: str):
    case = NAMED[name]
    with single():
        pipe = case.build()
        found = found_in(case, pipe)
        times = as_time(found.plan.times).tolist()
        plan = ReversibleHeun().plan(found.process, UniformT(4, start=times[0], end=times[-2]))
        exact = ours(case, pipe, found, plan=plan, gradient=Direct())
        network(pipe).enable_gradient_checkpointing()
        network(pipe).train()
        assert max(apart(ours(case, pipe, found, plan=plan, gradient=Reversible()), exact)) < 1e-3


@pytest.mark.parametrize("name", ["sd15", "flux"])
@pytest.mark.parametrize("strategy", ["Checkpoint", "recursive", "regions"])
def test_dropout_is_replayed(name: str, strategy: str):
    case = NAMED[name]
    with single():
        pipe = case.build()
        for part in network(pipe).modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.2
        network(pipe).train()

        def run(gradient: Gradient, seed: int) -> Any:
            found = found_in(case, pipe)
            torch.manual_seed(seed)
            return ours(case, pipe, found, gradient=gradient)

        exact = run(Direct(), 0)
        assert max(apart(run(STRATEGIES[strategy], 0), exact)) < 1e-5
        assert apart(run(Direct(), 1), exact)[0] > 1e-3 or name == "flux"  # flux has no dropout


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", ["sd15", "sd3", "flux"])
def test_compiled_networks(name: str, backend: str):
    case = NAMED[name]
    with single():
        pipe = case.build()
        exact = ours(case, pipe)
        network(pipe).compile(backend=backend)
        assert max(apart(ours(case, pipe), exact)) < 1e-4
        torch.compiler.reset()


def test_a_pipeline_that_holds_a_compiled_network():
    """`pipe.transformer = torch.compile(pipe.transformer)`: a module around the module."""
    case = NAMED["flux"]
    with single():
        pipe = case.build()
        exact = ours(case, pipe)
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
        assert max(apart(ours(case, pipe), exact)) < 1e-5
        torch.compiler.reset()


def test_lora_comes_and_goes_after_from_diffusers():
    from peft import LoraConfig

    case = NAMED["sd3"]
    with single():
        pipe = case.build()
        found = found_in(case, pipe)
        base = ours(case, pipe, found)
        pipe.transformer.add_adapter(
            LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
        )
        loaded = ours(case, pipe, found)
        assert apart(loaded, base)[0] > 1e-3 and max(apart(loaded, theirs(case, pipe))) < 1e-4
        weights = [each for each in pipe.transformer.parameters() if each.requires_grad]
        assert weights and {id(each) for each in weights} <= {id(each) for each in found.model.parameters()}
        x = sample(found.model, found.plan, start(pipe, case), cond=found.cond)
        assert all(g.norm() > 0 for g in torch.autograd.grad(loss_of(x), weights))
        pipe.transformer.set_adapters(["default"], [0.5])
        assert max(apart(ours(case, pipe, found), theirs(case, pipe))) < 1e-4
        pipe.transformer.disable_adapters()
        assert apart(ours(case, pipe, found), base) == (0.0, 0.0)
        pipe.transformer.enable_adapters()
        pipe.transformer.delete_adapters(["default"])
        assert apart(ours(case, pipe, found), base) == (0.0, 0.0)


def test_a_vae_in_slices_and_tiles():
    case = NAMED["sd15"]
    with single():
        pipe = case.build()
        found = found_in(case, pipe)
        x = torch.randn(2, 4, 8, 8, requires_grad=True)
        whole = found.decode(x)
        (expected,) = torch.autograd.grad(loss_of(whole), x)
        pipe.vae.enable_slicing()
        assert torch.allclose(found.decode(x), whole, atol=1e-5)
        pipe.vae.enable_tiling()
        pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 4, 8
        tiled = found.decode(x)
        assert torch.equal(tiled, found.decode(x, checkpoint=True)) and not torch.equal(tiled, whole)
        (gradient,) = torch.autograd.grad(loss_of(tiled), x)
        assert 0.1 < gradient.norm() / expected.norm() < 10
        assert torch.equal(
            tiled, pipe.vae.decode(x / pipe.vae.config.scaling_factor, return_dict=False)[0]
        )  # as the VAE itself does
