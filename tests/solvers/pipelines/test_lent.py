"""What a call writes on networks that are lent to it is taken back and noted; twins are told it."""

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pullback.solvers.pipelines.lent import lent
from pullback.solvers.pipelines.twins import viewed


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.note, self.old = nn.Linear(2, 2), "mine", 1

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * len(self.note)


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_taken_back(fails: bool):
    pipe = SimpleNamespace(net=nn.Sequential(Part(), Part()), vae=nn.Linear(2, 2))
    inner, x = pipe.net[0].inner, torch.ones(1, 2)
    before = pipe.net(x)
    held = None
    try:
        with lent(pipe, {"net"}) as held:
            pipe.net[0].note, pipe.net[0].new = "theirs", 3
            del pipe.net[0].old
            pipe.net[0].inner = nn.Linear(2, 2)
            written = pipe.net(x)
            pipe.vae.to(torch.bfloat16).requires_grad_(False)
            pipe.vae.eval()
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert torch.equal(pipe.net(x), before) and pipe.net[0].inner is inner and pipe.net[0].note == "mine"
    assert pipe.net[0].old == 1 and not hasattr(pipe.net[0], "new") and pipe.vae.training
    assert all(each.dtype == torch.float64 and each.requires_grad for each in pipe.vae.parameters())
    assert held is not None and list(held.changes) == ["net"] and list(held.changes["net"]) == ["0"]
    twin = viewed(pipe.net, held.changes["net"], "net")
    assert torch.equal(twin(x), written) and twin[1] is pipe.net[1] and twin[0] is not pipe.net[0]  # type: ignore[index]
    assert twin[0].new == 3 and "old" not in vars(twin[0])  # type: ignore[index]
    assert torch.equal(pipe.net(x), before)


def test_one_call_at_a_time_is_lent_to():
    pipe, order, inside = SimpleNamespace(net=Part()), list[str](), threading.Event()

    def second() -> None:
        inside.wait()
        with lent(pipe, {"net"}):
            order.append("second")

    other = threading.Thread(target=second)
    other.start()
    with lent(pipe, {"net"}):
        inside.set()
        other.join(0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
