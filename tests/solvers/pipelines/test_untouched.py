"""What `from_diffusers` leaves alone, what it lets go of, and what it notices of its user's objects."""

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pipelines.case import built, single, start
from pipelines.differentiated import NAMED, apart, asked_of, equal, found_in, loss_of, ours
from torch import Tensor

from pullback.adjoint import sample
from pullback.solvers import Addressed
from pullback.solvers.pipelines import DiffusersPipeline, from_diffusers

FAMILIES = ("sd15", "sdxl", "sd3", "flux")
TEXTS = {"prompt": "a cat", "negative_prompt": "a dog", "height": 16, "width": 16}


def value(found: DiffusersPipeline, x: Tensor, cond: Any = None) -> Tensor:
    with torch.no_grad():
        return sample(found.model, found.plan, x, cond=cond, gradient=None)


@contextmanager
def unchanged(pipe: Any) -> Iterator[None]:
    """Neither the pipeline nor its scheduler nor its networks nor the global random state."""
    networks = [each for each in pipe.components.values() if isinstance(each, torch.nn.Module)]

    def seen() -> tuple[Any, ...]:
        hooks = [
            len(part._forward_hooks) + len(part._forward_pre_hooks) for n in networks for part in n.modules()
        ]
        weights = [weight._version for net in networks for weight in net.parameters()]
        return torch.get_rng_state().tolist(), dict(pipe.config), dict(pipe.scheduler.config), hooks, weights

    before, own, steps = seen(), dict(vars(pipe)), copy.deepcopy(vars(pipe.scheduler))
    yield
    assert seen() == before
    assert vars(pipe).keys() == own.keys() and all(vars(pipe)[name] is own[name] for name in own)
    assert equal(vars(pipe.scheduler), steps)


@pytest.mark.parametrize("name", [*FAMILIES, "sd15_text", "controlnet", "ddpm"])
def test_the_users_pipeline_is_untouched(name: str):
    case = NAMED[name]
    with single():
        pipe = case.build()
        pipe.set_progress_bar_config(disable=True, desc="mine")
        how: dict[str, Any] = {**case.call(pipe), "num_inference_steps": case.steps, "output_type": "np"}

        def call() -> Tensor:
            return torch.as_tensor(pipe(**how, generator=torch.Generator().manual_seed(3)).images)

        before = call()
        with unchanged(pipe):
            found = found_in(case, pipe)
            x = found.draw().requires_grad_()
            cond = asked_of(case, pipe)
            end = sample(
                found.model,
                found.plan,
                x,
                cond=cond or None,
                noise=Addressed(0) if found.plan.slots else None,
            )
            picture = found.decode(end)
            picture.square().sum().backward()
            with torch.no_grad():
                found.encode(picture.detach())
        assert pipe._progress_bar_config == {"disable": True, "desc": "mine"}
        assert torch.equal(call(), before)


def test_generators_of_the_user_are_not_advanced():
    case = NAMED["sd15"]
    with single():
        pipe = built(case)
        given, drawing = torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)
        states = given.get_state(), drawing.get_state()
        found = found_in(case, pipe, generator=given)
        value(found, found.draw(drawing))
        assert torch.equal(found.draw(), found.draw()) and torch.equal(
            found.draw(drawing), found.draw(drawing)
        )
        assert not torch.equal(found.draw(), found.draw(drawing))
        assert torch.equal(given.get_state(), states[0]) and torch.equal(drawing.get_state(), states[1])


@pytest.mark.parametrize("name", ["sd15", "controlnet", "sd_inpaint_4"])
def test_the_plan_and_the_model_outlive_another_scheduler(name: str):
    case = NAMED[name]
    with single():
        pipe = case.build()
        found = found_in(case, pipe)
        before = ours(case, pipe, found)
        pipe.scheduler = case.schedulers[1](pipe)
        pipe.scheduler.set_timesteps(7)
        assert apart(ours(case, pipe, found), before) == (0.0, 0.0)
        assert apart(ours(case, pipe), before)[0] > 1e-3


def test_the_networks_of_a_pipeline_are_those_it_had():
    """Weights are the user's own; a network put in another's place afterwards is for the next from_diffusers."""
    case = NAMED["flux"]
    with single():
        pipe = case.build()
        found, x = found_in(case, pipe), start(pipe, case)
        before = value(found, x)
        with torch.no_grad():
            pipe.transformer.x_embedder.weight.mul_(2)
        changed = value(found, x)
        assert not torch.equal(changed, before)
        pipe.transformer = case.build().transformer
        assert torch.equal(value(found, x), changed) and not torch.equal(
            value(found_in(case, pipe), x), changed
        )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["value", "gradient of latents", "gradient of texts", "decoded"])
def test_networks_are_freed_with_the_pipeline(how: str):
    """At once, as diffusers' own: a reference cycle would keep gigabytes until the next collection."""
    case = NAMED["sd15"]
    with single():
        pipe = case.build()
        watched = [weakref.ref(pipe.unet), weakref.ref(pipe.vae), weakref.ref(pipe)]
        found, x, cond = found_in(case, pipe), start(pipe, case), asked_of(case, pipe)
        gc.collect()
        gc.disable()
        try:
            if how == "value":
                value(found, x)
            elif how == "decoded":
                found.decode(x, checkpoint=True)
            else:
                x.requires_grad_(how == "gradient of latents")
                end = sample(found.model, found.plan, x, cond=None if x.requires_grad else cond)
                loss_of(end).backward()
                del end
            del found, pipe
            assert [each() is None for each in watched] == [True] * 3
        finally:
            gc.enable()


def test_a_write_into_an_embedding_is_noticed():
    """By its count of writes. A write through `.data` does not count: autograd overlooks it as well."""
    case = NAMED["sd15"]
    with single():
        pipe = built(case)
        found, x = found_in(case, pipe), start(built(case), case)
        given = found.cond["prompt_embeds"].clone()
        cond = found.cond | {"prompt_embeds": given}
        before = value(found, x, cond)
        assert torch.equal(before, value(found, x))
        given.mul_(2)
        twice = value(found, x, cond)
        assert not torch.equal(twice, before)
        assert torch.equal(twice, value(found, x, found.cond | {"prompt_embeds": given.clone()}))
        for k in range(6):  # other memory, and perhaps that of the last but one
            given.data = given.detach() + k
            fresh = value(found, x, found.cond | {"prompt_embeds": given.detach().clone()})
            assert torch.equal(value(found, x, cond), fresh)


def test_an_optimiser_step_between_two_calls_is_noticed():
    case = NAMED["flux"]
    with single():
        pipe = built(case)
        found, x, cond = found_in(case, pipe), start(pipe, case), asked_of(case, pipe)
        optimiser, losses = torch.optim.SGD(cond.values(), 1e-3), list[float]()
        for _ in range(3):
            loss = sample(found.model, found.plan, x, cond=cond).square().mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(float(loss))
        assert losses[0] > losses[1] > losses[2]


def test_what_from_diffusers_was_given_can_be_differentiated_and_changed():
    case = NAMED["sd15"]
    with single():
        pipe, x = built(case), start(built(case), case)
        given = case.call(pipe)["prompt_embeds"].clone().requires_grad_()
        found = found_in(case, pipe, prompt_embeds=given)
        (implicit,) = torch.autograd.grad(loss_of(sample(found.model, found.plan, x)), given)
        (explicit,) = torch.autograd.grad(loss_of(sample(found.model, found.plan, x, cond=found.cond)), given)
        assert torch.allclose(implicit, explicit, rtol=1e-5)
        before = value(found, x)
        with torch.no_grad():
            given.mul_(2)
        assert not torch.equal(value(found, x), before)


def test_a_prompt_is_changed_by_cond():
    case = NAMED["sd15_text"]
    with single():
        pipe = built(case)
        found = from_diffusers(pipe, 3, **TEXTS)
        other = from_diffusers(pipe, 3, **TEXTS | {"prompt": "a house"})
        x = found.draw()
        assert torch.equal(value(found, x, found.encode_prompt(prompt="a house")), value(other, x))
        assert not torch.equal(value(found, x), value(other, x))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda found: pickle.loads(pickle.dumps(found))],
                         ids=["copy", "deepcopy", "pickle"])  # fmt: skip
def test_copies(copied: Any):
    case = NAMED["sd15"]
    with single():
        pipe = built(case)
        found = found_in(case, pipe)
        before = ours(case, pipe, found)
        twin = copied(found)
        assert apart(ours(case, pipe, twin), before) == (0.0, 0.0)
        assert copied(found.plan) == found.plan
        assert torch.equal(copied(found.model)(found.draw(), torch.full((2,), 501.0)),
                           found.model(found.draw(), torch.full((2,), 501.0)))  # fmt: skip


@pytest.mark.slow
def test_threads_that_sample_at_once():
    """Each with its own texts and guidance, six openings in all where four are kept."""
    case = NAMED["flux"]
    with single():
        pipe = built(case)
        found, x = found_in(case, pipe), start(pipe, case)
        conds = [
            found.cond
            | {"prompt_embeds": (k * found.cond["prompt_embeds"]).requires_grad_(), "guidance_scale": 1.0 + k}
            for k in range(1, 7)
        ]

        def run(k: int) -> tuple[Tensor, Tensor]:
            end = sample(found.model, found.plan, x, cond=conds[k])
            return end.detach(), torch.autograd.grad(loss_of(end), conds[k]["prompt_embeds"])[0]

        alone, together = [run(k) for k in range(6)], dict[int, list[Any]]()

        def work(mine: range) -> None:
            for k in (*mine, *mine):
                together.setdefault(k, []).append(run(k))

        threads = [threading.Thread(target=work, args=(range(k, 6, 2),)) for k in (0, 1)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    for k in range(6):
        assert all(torch.equal(a, b) for again in together[k] for a, b in zip(again, alone[k], strict=True))
        assert len(together[k]) == 2
