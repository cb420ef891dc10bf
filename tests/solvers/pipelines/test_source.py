"""The source of a pipeline's call, taken apart: by small classes that are written as pipelines are."""

from typing import Any

import pytest
import torch

from pullback.solvers.pipelines.compiled import INDEX, LABEL, LABELS, code_of


class Written:
    """What those below have in common; nothing of it is called but by them."""

    scheduler: Any = None

    def encode_prompt(self, prompt):
        return torch.full((1, 2), float(len(prompt)))


class Nested(Written):
    @torch.no_grad()
    def __call__(self, prompt=None, prompt_embeds: Any = None, guided=True, steps=3, latents=None):
        if prompt is None:
            prompt = ""
        else:
            prompt_embeds = self.encode_prompt(prompt)
            if guided:
                prompt_embeds = torch.cat([torch.zeros_like(prompt_embeds), prompt_embeds])
        timesteps = torch.arange(steps)
        if latents is None:
            latents = torch.ones(1, 2)
        with torch.no_grad():
            for i, t in enumerate(timesteps):
                if i > steps:
                    continue
                noise_pred = latents * prompt_embeds[-1:] + t + 10 * i
                with torch.no_grad():
                    noise_pred = noise_pred + 1
                latents = self.scheduler.step(noise_pred, t, latents, eta=0.5, return_dict=False)[0]
                latents = latents * 2
        return latents + 100


class Repeated(Written):
    def __call__(self, rounds=1):
        latents, timesteps = torch.ones(1, 2), torch.arange(2)
        for _ in range(rounds):
            for t in timesteps:
                latents = self.scheduler.step(latents + t, t, latents).prev_sample
        return latents


class Paired(Written):
    def __call__(self):
        latents = torch.ones(1, 2)
        for k, (t, s) in enumerate([(1, 2)]):
            latents = self.scheduler.step(latents, t + s + k, latents)[0]
        return latents


class Counting(Written):
    def __call__(self):
        latents = torch.ones(1, 2)
        for i in range(3):
            latents = self.scheduler.step(latents, i, latents)[0]
        return latents


class Partial(Written):
    def __call__(self):
        latents = torch.ones(1, 2)
        for t in [1, 2]:
            latents = self.scheduler.step(latents, t, latents[:, :1])[0]
        return latents


class Loopless(Written):
    def __call__(self):
        return self.scheduler.step(1, 2, 3)


def test_the_parts_are_the_pipeline_s_own_code():
    code, pipe = code_of(Nested), Nested()
    e = torch.tensor([[2.0, 3.0]], requires_grad=True)
    found = code.opening(pipe, prompt_embeds=e)
    assert torch.equal(found[LABELS], torch.arange(3)) and torch.equal(found["latents"], torch.ones(1, 2))
    x = torch.tensor([[1.0, 2.0]])
    given = {"latents": x, INDEX: 2, LABEL: torch.tensor(7)}
    out = code.played(code.turn, found, **given)
    assert torch.equal(out, x * e + 7 + 20 + 1)
    assert torch.equal(
        torch.autograd.grad(out.sum(), e)[0], x
    )  # under no_grad of its own, and differentiable
    assert code.rest is not None and torch.equal(code.played(code.rest, found, latents=x), 2 * x)
    assert torch.equal(code.played(code.closing, found, latents=x), x + 100)
    assert code.played(code.options, found) == {"eta": 0.5}
    assert code.source.state == "latents" and code.source.counts and code.source.scheduler == "self.scheduler"


def test_prompts_are_encoded_as_far_as_the_call_that_encodes():
    """In a branch too, and not what the pipeline makes of it then: that is made when the loop opens."""
    code = code_of(Nested)
    assert code.encoding is not None
    assert torch.equal(code.encoding(Nested(), prompt="a cat")["prompt_embeds"], torch.full((1, 2), 5.0))
    assert len(code.opening(Nested(), prompt="a cat")["prompt_embeds"]) == 2
    assert code.encoding(Nested(), prompt_embeds=torch.ones(1, 2))["prompt"] == ""


def test_a_loop_around_the_loop_runs_once():
    code = code_of(Repeated)
    assert torch.equal(code.opening(Repeated())[LABELS], torch.arange(2)) and not code.source.counts
    with pytest.raises(ValueError, match="samples 2 times, expected once"):
        code.opening(Repeated(), rounds=2)


@pytest.mark.parametrize(("pipeline", "match"), [
    (Paired, r"loop is over `\(k, \(t, s\)\)`, expected a number and a timestep"),
    (Counting, "loop runs over numbers, expected timesteps"),
    (Partial, r"steps `latents\[:, :1\]`, expected one state"),
    (Loopless, "expected a pipeline with `scheduler.step` in a loop"),
    (Written, "which cannot be called"),
])  # fmt: skip
def test_what_cannot_be_taken_apart_is_named(pipeline: type, match: str):
    with pytest.raises(ValueError, match=match):
        assert code_of(pipeline).source.state
