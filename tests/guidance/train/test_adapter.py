"""Adapters switched off for a reference, and weights to peft and safetensors and back."""

from typing import Any

import peft
import pytest
import torch
from problems import PROCESS
from safetensors.torch import load_file
from torch import Tensor
from tuning import Net, plan, prompts, reward, trainer

from pullback.adjoint import Checkpoint, sample
from pullback.guidance import (
    Precision,
    load_adapter,
    load_weights,
    lora,
    reference_of,
    save_adapter,
    save_weights,
)
from pullback.guidance.train.adapter import AdapterOff
from pullback.guidance.train.divergence import diverge
from pullback.solvers import DATA, Addressed, ClassifierFree, Denoiser, run


def model(seed: int = 0) -> Denoiser:
    return Denoiser(Net(seed=seed), PROCESS, DATA)


def adapted(**given: Any) -> Denoiser:
    """Adapters with something in them."""
    found = lora(model(), 2, **given)
    with torch.no_grad():
        for k, value in enumerate(v for v in found.parameters() if v.requires_grad):
            value += Addressed(k).at(0, 0, value.shape).to(value)
    return found


def test_lora_starts_from_the_network_as_it_was_and_draws_no_global_numbers():
    x, t = torch.ones(3, 2), torch.full((3,), 0.4)
    state = torch.get_rng_state()
    found, again = lora(model(), 2), lora(model(), 2)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(found(x, t), model()(x, t))
    pairs = list(zip(found.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs) and sum(a.requires_grad for a, _ in pairs) == 4
    assert torch.equal(lora(model(), 2, targets=["leave"])(x, t), model()(x, t))


def test_the_reference_is_the_network_with_its_adapter_off():
    found, x, t = adapted(), torch.ones(3, 2), torch.full((3,), 0.4)
    off = AdapterOff(found)
    assert torch.equal(off(x, t), model()(x, t)) and not torch.equal(found(x, t), model()(x, t))
    with pytest.raises(ValueError, match="without peft layers"):
        AdapterOff(model())


def test_the_reference_of_a_guided_model_is_guided_too():
    found, x, t = adapted(), torch.ones(3, 2), torch.full((3,), 0.4)
    guided, cond = ClassifierFree(found, 3.0, torch.zeros(3, 2)), torch.ones(3, 2)
    base = reference_of(guided)
    assert isinstance(base, ClassifierFree) and isinstance(base.denoiser, AdapterOff)
    assert torch.equal(base(x, t, cond), ClassifierFree(model(), 3.0, torch.zeros(3, 2))(x, t, cond))


def test_switching_off_between_forward_and_backward_changes_no_gradient():
    """`Checkpoint` looks at adapter flags when it goes back; a frozen adapter weight stays frozen."""
    found, chain = adapted(), plan()
    frozen = next(value for name, value in next(found.networks()).named_parameters() if "lora_A" in name)
    frozen.requires_grad_(False)
    batch, off = prompts().batch(range(4), chain, 0, torch.empty(0)), AdapterOff(found)
    tuned = [value for value in found.parameters() if value.requires_grad]

    def gradient(between: bool) -> list[Tensor]:
        x = sample(found, chain, batch.x, cond=batch.cond, noise=batch.noise, gradient=Checkpoint())
        if between:
            diverge(found, off, chain, batch)
            with pytest.raises(ValueError):
                off(batch.x, batch.x, batch.cond)
        return list(torch.autograd.grad(reward(x).sum(), tuned))

    for a, b in zip(gradient(False), gradient(True), strict=True):
        assert torch.equal(a, b) and bool(a.any())
    assert not frozen.requires_grad and len(tuned) == 3


def test_adapters_go_to_peft_and_come_back(tmp_path):
    found, x, t = adapted(), torch.ones(3, 2), torch.full((3,), 0.4)
    save_adapter(found, tmp_path)
    file = load_file(tmp_path / "adapter_model.safetensors")
    assert {value.dtype for value in file.values()} == {torch.float64}
    plain: Any = peft.PeftModel.from_pretrained(Net(), str(tmp_path))
    assert torch.equal(plain(x, t), found(x, t))
    other: Any = peft.get_peft_model(Net(), peft.LoraConfig.from_pretrained(str(tmp_path)))
    peft.set_peft_model_state_dict(other, file)
    assert torch.equal(other(x, t), found(x, t))
    ours = lora(model(), 2)
    load_adapter(ours, tmp_path)
    assert torch.equal(ours(x, t), found(x, t))
    with pytest.raises(ValueError, match="expected the network's 2"):
        load_adapter(lora(model(), 2, targets=["leave"]), tmp_path)


def test_whole_weights_go_to_safetensors_and_come_back(tmp_path):
    save_weights(model(seed=1), tmp_path / "deep" / "weights.safetensors")
    found = model()
    load_weights(found, tmp_path / "deep" / "weights.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model(seed=1).parameters(), strict=True))


@pytest.mark.parametrize("full", [True, False])
def test_export_writes_what_the_evaluation_saw(tmp_path, full):
    got = trainer(tmp_path, full=full, iterations=2)
    got.train()
    got.export(tmp_path / "export")
    net: Any = Net() if full else peft.PeftModel.from_pretrained(Net(), str(tmp_path / "export"))
    if full:
        load_weights(Denoiser(net, PROCESS, DATA), tmp_path / "export")
    batch = prompts().batch(range(8), plan(), 0, torch.empty(0), 2**63)
    assert torch.equal(
        run(Denoiser(net, PROCESS, DATA), plan(), batch.x, batch.cond, batch.noise), got.evaluate().x
    )


def test_adapters_leave_the_network_behind_them_alone(tmp_path):
    got = trainer(tmp_path, full=False, iterations=2)
    assert sorted(name.rsplit(".", 3)[1] for name in got.weights) == ["lora_A"] * 2 + ["lora_B"] * 2
    got.train()
    base = next(got.denoiser.networks()).get_base_model()  # type: ignore[operator]
    assert torch.equal(base.enter.base_layer.weight, Net().enter.weight)


def test_half_precision_weights_are_trained_in_float32(tmp_path):
    got = trainer(tmp_path, dtype=torch.bfloat16, precision=Precision.BF16, iterations=2)
    assert {value.dtype for value in got.weights.values()} == {torch.float32} and got.check().log_ratio == 0
    got.train()
    assert got.evaluate().x.dtype == torch.float32
    latest = got.checkpoints.latest()
    assert latest is not None
    assert {v.dtype for v in load_file(latest / "weights.safetensors").values()} == {torch.float32}
    seen: list[torch.dtype] = []
    network: Any = next(got.denoiser.networks())
    network.enter.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    got.evaluate()
    assert set(seen) == {torch.bfloat16}
