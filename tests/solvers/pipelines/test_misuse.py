"""What `from_diffusers` and its model say where they are used in a way that cannot be meant."""

from typing import Any

import pytest
import torch
from pipelines.case import built, single, start
from pipelines.differentiated import NAMED, found_in, network
from torch import Tensor

from pullback.adjoint import sample
from pullback.solvers.pipelines import DiffusersPipeline, from_diffusers

CASE = NAMED["sd15"]


@pytest.fixture
def found() -> Any:
    with single():
        yield found_in(CASE, built(CASE))


@pytest.fixture
def unasked() -> Any:
    """No network is called."""

    def called(*args: Any) -> None:
        raise AssertionError("the network was called")

    hook = network(built(CASE)).register_forward_pre_hook(called)
    yield
    hook.remove()


def run(found: DiffusersPipeline, x: Tensor | None = None, cond: Any = None) -> Tensor:
    x = start(built(CASE), CASE) if x is None else x
    return sample(found.model, found.plan, x, cond=cond, gradient=None)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an argument that does not exist": ({"negative_promt_embeds": torch.zeros(1)}, TypeError,
        r"got \['negative_promt_embeds'\], expected arguments of its call: prompt, height"),
    "two numbers of steps": ({"num_inference_steps": 5}, ValueError, "steps: got 4 and num_inference_steps=5"),
    "a callback": ({"callback_on_step_end": print}, ValueError, "pass callback= to sample"),
    "no prompt": ({"prompt_embeds": None, "negative_prompt_embeds": None}, ValueError,
        "Provide either `prompt` or `prompt_embeds`"),
}  # fmt: skip


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("name", WRONG)
def test_arguments_of_the_call(name: str):
    given, error, text = WRONG[name]
    with single(), pytest.raises(error, match=text):
        found_in(CASE, built(CASE), **given)


@pytest.mark.usefixtures("unasked")
def test_not_a_pipeline():
    pipe = built(CASE)
    with pytest.raises(
        TypeError, match="pipe: got the class StableDiffusionPipeline, expected a diffusers pipeline"
    ):
        from_diffusers(type(pipe), 4)
    with pytest.raises(TypeError, match="pipe: got a UNet2DConditionModel, expected a diffusers pipeline"):
        from_diffusers(pipe.unet, 4)
    with pytest.raises(TypeError, match="steps(: got|=)'a cat'|steps: got 'a cat'"):
        from_diffusers(pipe, "a cat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps: got 0, expected a whole number >= 1"):
        from_diffusers(pipe, 0)
    with pytest.raises(TypeError, match="positional"):
        from_diffusers(pipe, 4, "a cat")  # type: ignore[call-arg]


STATES: dict[str, tuple[Any, str]] = {
    "one sample of two prompts": (lambda x: x[:1], "got 1 samples where its arguments say 2"),
    "three of two": (lambda x: torch.cat([x, x[:1]]), "got 3 samples where its arguments say 2"),
    "another height": (
        lambda x: x[..., :6, :],
        r"got \(2, 4, 6, 8\), expected \(2, 4, 8, 8\).*pass height= and width=",
    ),
    "no batch": (lambda x: x[0], "x: got|got 4 samples|expected"),
    "whole numbers": (lambda x: x.long(), "floating point"),
}


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("name", STATES)
def test_states(found: DiffusersPipeline, name: str):
    change, text = STATES[name]
    with pytest.raises(ValueError, match=text):
        run(found, change(start(built(CASE), CASE)))


CONDS: dict[str, tuple[Any, type[Exception], str]] = {
    "a list": (lambda e: [e], TypeError, "cond: got a list, expected a dict of arguments of StableDiffusionPipeline"),
    "a tensor": (lambda e: e, TypeError, r"cond: got a tensor .*pass cond=\{\"prompt_embeds\": ...\}"),
    "an unknown name": (lambda e: {"prompt_embed": e}, TypeError, r"got \['prompt_embed'\], expected arguments"),
    "another width": (lambda e: {"prompt_embeds": e[..., :5]}, ValueError, "must have the same shape"),
    "three prompts": (lambda e: dict.fromkeys(("prompt_embeds", "negative_prompt_embeds"), torch.cat([e, e[:1]])),
        ValueError, "got 2 samples where its arguments say 3"),
}  # fmt: skip


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("name", CONDS)
def test_conditions(found: DiffusersPipeline, name: str):
    make, error, text = CONDS[name]
    with pytest.raises(error, match=text):
        run(found, cond=make(found.cond["prompt_embeds"]))


@pytest.mark.usefixtures("unasked")
def test_a_number_that_cannot_be_differentiated(found: DiffusersPipeline):
    size = torch.tensor(16.0, requires_grad=True)
    with pytest.raises((ValueError, TypeError), match="height"):
        sample(found.model, found.plan, start(built(CASE), CASE), cond={"height": size})


def test_a_batch_that_is_a_multiple_of_the_prompts_repeats_them(found: DiffusersPipeline):
    x = start(built(CASE), CASE)
    twice = run(found, x.repeat_interleave(2, 0))
    assert torch.allclose(twice[::2], run(found, x), atol=1e-4) and torch.allclose(
        twice[1::2], twice[::2], atol=1e-4
    )
