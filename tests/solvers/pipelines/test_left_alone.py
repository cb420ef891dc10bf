"""Whatever is done by `from_diffusers`, to whatever family, and however it ends, the pipeline stands as it stood."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pipelines.build import library
from pipelines.case import PipelineCase, reference, single, start
from pipelines.parity import CASES, REFUSED, far, found_of
from pipelines.standing import changes, standing
from torch import Tensor, nn

from pullback.adjoint import Checkpoint, Direct, sample
from pullback.solvers import Addressed, DiffusersPipeline

ALL = {case.name: case for case in CASES}
QUICK = ("pag",)
DROPPING = (nn.Dropout, nn.modules.batchnorm._BatchNorm)  # random, or with statistics of the network's own


def stirred(case: PipelineCase) -> Any:
    """The pipeline as users leave theirs: called once, parts in train mode, weights that are frozen and others."""
    pipe = case.build()
    if case.name.endswith("_text"):  # transformers put hooks into text encoders at their first call
        reference(pipe, case, start(pipe, case))
    for k, network in enumerate(each for each in pipe.components.values() if isinstance(each, nn.Module)):
        for j, part in enumerate(network.modules()):
            part.training = (j + k) % 3 == 0 and not isinstance(part, DROPPING)
        for j, weight in enumerate(network.parameters()):
            weight.requires_grad_((j + k) % 2 == 0)
    return pipe


def run(found: DiffusersPipeline) -> Tensor:
    x = found.draw().requires_grad_()
    cond = {k: v.detach().clone().requires_grad_() for k, v in found.cond.items() if v.is_floating_point()}
    noise = Addressed(0) if found.plan.slots else None
    try:
        return sample(found.model, found.plan, x, cond=cond or None, noise=noise)
    except ValueError as refused:  # an embedding that these arguments leave aside
        assert "require grad" in str(refused)
        return sample(found.model, found.plan, x, noise=noise)


def there_and_back(case: PipelineCase, pipe: Any) -> None:
    """The run and its gradient, the picture and its, and latents of the picture where that is supported."""
    found = found_of(case, pipe)
    run(found).square().sum().backward()
    if case.name == "kandinsky3":  # its decoder here is no MoVQ, and takes no `force_not_quantize`
        return
    picture = found.decode(found.draw().requires_grad_())
    picture.square().sum().backward()
    try:
        found.encode(picture.detach())
    except ValueError as refused:
        assert str(refused).startswith("encode: got"), refused


def left_by(pipe: Any, doing: Callable[[Any], object]) -> list[str]:
    before = standing(pipe)
    doing(pipe)
    return changes(before, standing(pipe))


@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case.name in QUICK else pytest.mark.slow)
                                  for case in CASES], ids=str)  # fmt: skip
def test_a_run_changes_nothing(case: PipelineCase):
    with single():
        pipe = stirred(case)
        if (case.name, "") in REFUSED:
            before = standing(pipe)
            with pytest.raises(ValueError, match="expected|incorrect"):
                found_of(case, pipe)
            assert changes(before, standing(pipe)) == []
            return
        assert left_by(pipe, partial(there_and_back, case)) == []


class Broken(Exception):
    """What a network may raise at any time."""


@pytest.mark.slow
def test_the_law_sees_what_is_changed():
    """Each kind of change that it is for."""
    case = ALL["pag"]

    def mode(pipe: Any) -> None:
        pipe.vae.encoder.train()

    def asking(pipe: Any) -> None:
        next(pipe.vae.parameters()).requires_grad_(False)

    def processor(pipe: Any) -> None:
        pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.processor = object()

    def kind(pipe: Any) -> None:
        pipe.vae.to(torch.bfloat16)

    def levels(pipe: Any) -> None:
        pipe.scheduler.set_timesteps(3)

    def config(pipe: Any) -> None:
        pipe.register_to_config(requires_safety_checker=True)

    def hook(pipe: Any) -> None:
        pipe.unet.conv_in.register_forward_hook(lambda *args: None)

    with single():
        pipe = stirred(case)
        for change in (mode, asking, processor, kind, levels, config, hook):
            assert left_by(pipe, change), change


@pytest.mark.parametrize("where", ["turn", *(pytest.param(each, marks=pytest.mark.slow)
                                             for each in ("replay", "decoder", "encoder"))])  # fmt: skip
def test_nothing_is_changed_by_a_network_that_fails(where: str):
    """In a turn, in the backward pass, in the VAE."""
    case, calls = ALL["pag"], list[str]()

    def breaks(*args: Any) -> None:
        calls.append(where)
        if where != "replay" or len(calls) > 3 * case.steps:  # the backward pass calls the network again
            raise Broken

    with single():
        pipe = stirred(case)
        places = {"decoder": pipe.vae.decoder, "encoder": pipe.vae.encoder}
        places.get(where, pipe.unet).register_forward_pre_hook(breaks)
        before = standing(pipe)
        with pytest.raises(Broken):
            while True:
                there_and_back(case, pipe)
        assert changes(before, standing(pipe)) == []


def test_nothing_is_changed_by_a_call_that_fails_before_its_loop():
    """With the processors of the first layer in their place, the second is not found."""
    case = ALL["pag"]
    with single():
        pipe = stirred(case)
        pipe.set_pag_applied_layers(["mid", "nowhere"])
        before = standing(pipe)
        with pytest.raises(ValueError, match="Cannot find PAG layer"):
            found_of(case, pipe)
        assert changes(before, standing(pipe)) == []


@pytest.mark.slow
def test_a_plain_pipeline_of_the_same_network_is_not_perturbed():
    """Between the steps of one, and while it is differentiated."""
    case, plain = ALL["pag"], ALL["sd15"]
    with single(), torch.no_grad():
        pipe = case.build()
        other = library().StableDiffusionPipeline(
            **pipe.components | {"requires_safety_checker": False}
        )  # shares the networks
        alone = found_of(plain, other)
        x, t = alone.draw(), torch.full((2,), 501.0)
        expected = alone.model(x, t)
        found = found_of(case, pipe)
        perturbed = found.model(x, t)
        assert torch.equal(alone.model(x, t), expected) and far(perturbed, expected) > 1e-3
        assert torch.equal(found.model(x, t), perturbed)


def hooked(pipe: Any) -> None:
    """As `enable_model_cpu_offload` and `device_map` leave it: each module's forward is another."""
    from accelerate import dispatch_model

    dispatch_model(pipe.unet, device_map={"": "cpu"}, force_hooks=True)


def every_module_hooked(pipe: Any) -> None:
    from accelerate import cpu_offload

    for part in (pipe.unet, pipe.vae):
        cpu_offload(part, execution_device=torch.device("cpu"))


def checkpointed(pipe: Any) -> None:
    """Blocks are computed again in the backward pass, when the turn is over."""
    pipe.unet.enable_gradient_checkpointing()
    pipe.unet.train()


def compiled(pipe: Any) -> None:
    pipe.unet.compile(backend="eager")


def wrapped(pipe: Any) -> None:
    pipe.unet = torch.compile(pipe.unet, backend="eager")


@pytest.mark.slow
@pytest.mark.parametrize("switch", [hooked, every_module_hooked, checkpointed, compiled, wrapped])
def test_perturbed_attention_under_what_users_switch_on(switch: Callable[[Any], None]):
    """Value and gradient are those without it, by both strategies."""
    case = ALL["pag"]

    def outcome(pipe: Any, gradient: Any) -> tuple[Tensor, Tensor]:
        found = found_of(case, pipe)
        x = found.draw().requires_grad_()
        end = sample(found.model, found.plan, x, gradient=gradient)
        return end.detach(), torch.autograd.grad(end.square().sum(), x)[0]

    with single():
        pipe = case.build()
        expected = outcome(pipe, Direct())
        switch(pipe)
        before = standing(pipe)
        for gradient in (Direct(), Checkpoint()):
            for got, want in zip(outcome(pipe, gradient), expected, strict=True):
                assert far(got, want) < 1e-5
        # accelerate itself carries weights to and fro
        assert [each for each in changes(before, standing(pipe)) if ": weight " not in each] == []
        torch.compiler.reset()


def test_a_network_that_cannot_be_copied_is_refused():
    """Group offloading puts functions in the place of a module's forward that call the module itself."""
    case, how = ALL["pag"], torch.device("cpu")
    with single(), torch.no_grad():
        pipe = case.build()
        pipe.unet.enable_group_offload(how, how, offload_type="block_level", num_blocks_per_group=1)
        found = found_of(case, pipe)
        with pytest.raises(
            ValueError, match=r"unet.*: got a network whose `forward` is replaced by .*take the hooks"
        ):
            found.model(found.draw(), torch.full((2,), 501.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sdxl_img2img"])
def test_a_vae_that_is_cast_for_a_call(name: str):
    """SDXL's, in half precision: the pipeline decodes in float32, and so is the gradient; the user's VAE stays."""
    case = ALL[name]
    with single():
        pipe = case.build()
    with single():
        exact = found_of(case, case.build())
        x = exact.draw().half().float()
        there = [x.clone().requires_grad_() for _ in range(3)]
        pictures = [exact.decode(there[0])]
        pipe.to(torch.float16)
        assert pipe.vae.config.force_upcast
        found = found_of(case, pipe)
        before = standing(pipe)
        pictures += [found.decode(each, checkpoint=k > 0) for k, each in enumerate(there[1:])]
        for picture in pictures:
            picture.square().sum().backward()
        for picture, leaf in zip(pictures[1:], there[1:], strict=True):
            assert picture.dtype == torch.float32 and far(picture, pictures[0]) < 5e-3
            assert (
                leaf.grad is not None and there[0].grad is not None and far(leaf.grad, there[0].grad) < 2e-2
            )
        assert far(found.encode(pictures[1].detach()).float(), exact.encode(pictures[1].detach())) < 1e-2
        assert changes(before, standing(pipe)) == []


@pytest.mark.slow
def test_threads_that_open_two_pipelines_of_one_network():
    """One prepares the network for its turns while the other looks at it: neither keeps the other's."""
    case, plain = ALL["pag"], ALL["sd15"]
    with single():
        pipe = case.build()
        other = library().StableDiffusionPipeline(**pipe.components | {"requires_safety_checker": False})
        before = standing(pipe)

        def work(mine: PipelineCase, with_pipe: Any) -> None:
            for _ in range(4):
                found_of(mine, with_pipe)

        both = [threading.Thread(target=work, args=each) for each in ((case, pipe), (plain, other))]
        for each in both:
            each.start()
        for each in both:
            each.join()
        assert changes(before, standing(pipe)) == []
