"""The architectures of the bundled models: smooth everywhere (SiLU), so that gradients through them can be checked."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Residual block with an embedding added between its two convolutions."""

    def __init__(self, inner: int, outer: int, emb: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inner), nn.GroupNorm(8, outer)
        self.conv1, self.conv2 = nn.Conv2d(inner, outer, 3, padding=1), nn.Conv2d(outer, outer, 3, padding=1)
        self.emb = nn.Linear(emb, outer)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.emb(emb)[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class UNet(nn.Module):
    """Two or three resolutions, one block each way; `size` is padded up to a multiple of the coarsest stride.

    Args:
        size: image side. width: channels at full resolution. mults: channels of each resolution, in widths.
        classes: number of labels, 0 for an unconditional network. The label `classes` is the null one.
        patch: pixels each way that enter as channels of one place: full resolution is then size/patch, at 1/patch^2
            of the cost.
    """

    def __init__(
        self, size: int, width: int, mults: tuple[int, ...], classes: int = 0, patch: int = 1
    ) -> None:
        super().__init__()
        self.classes, self.patch, emb = classes, patch, 4 * width
        self.pad = -size % (patch * 2 ** (len(mults) - 1))
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(200.0), width // 2)))
        self.time = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU())
        self.label = nn.Linear(classes + 1, emb, bias=False) if classes else None
        self.enter = nn.Conv2d(patch**2, width, 3, padding=1)
        channels = [width * m for m in mults]
        self.down = nn.ModuleList(
            Block(a, b, emb) for a, b in zip([width, *channels[:-1]], channels, strict=True)
        )
        self.middle = Block(channels[-1], channels[-1], emb)
        self.up = nn.ModuleList(
            Block(2 * b, a, emb) for a, b in zip([width, *channels[:-1]][::-1], channels[::-1], strict=True)
        )
        self.leave = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, patch**2, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        size = x.shape[-1]
        angle = t[:, None] * self.frequencies.to(t)
        emb = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        if self.label is not None:
            emb = emb + self.label(self._one_hot(cond, x))
        padded = F.pad(x, (0, self.pad, 0, self.pad), value=-1.0)
        h = self.enter(F.pixel_unshuffle(padded, self.patch))
        skips = []
        for k, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if k else h, emb)
            skips.append(h)
        h = self.middle(h, emb)
        for k, block in enumerate(self.up):
            h = block(torch.cat([F.interpolate(h, scale_factor=2.0) if k else h, skips.pop()], 1), emb)
        return F.pixel_shuffle(self.leave(h), self.patch)[..., :size, :size]

    def _one_hot(self, cond: Tensor | None, x: Tensor) -> Tensor:
        """Labels (B,), soft class vectors (B, classes + 1), or None for the null label, as vectors."""
        if cond is None:
            cond = torch.full((len(x),), self.classes, device=x.device)
        return cond.to(x) if cond.is_floating_point() else F.one_hot(cond, self.classes + 1).to(x)


class Embedder(nn.Module):
    """A small convnet to unit vectors (B, 64), or to class scores where `unit` is False."""

    def __init__(self, size: int, width: int, outputs: int = 64, unit: bool = True) -> None:
        super().__init__()
        self.unit = unit
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.GroupNorm(8, width),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.GroupNorm(8, 2 * width),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
        )
        self.head = nn.Linear(2 * width * (size // 2 // 2) ** 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.body(x).flatten(1))
        return F.normalize(out, dim=1) if self.unit else out


class ResidualClassifier(nn.Module):
    """Class scores from residual blocks and a mean over the plane: built unlike `Embedder`, to judge what fooled it.

    `features` gives the mean (B, 4 width), of which the scores are linear functions.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        channels = [width, 2 * width, 4 * width]
        self.enter = nn.Conv2d(1, width, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(
            _Residual(a, b) for a, b in zip([width, *channels[:-1]], channels, strict=True)
        )
        self.head = nn.Linear(channels[-1], outputs)

    def features(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for k, block in enumerate(self.blocks):
            h = block(F.avg_pool2d(h, 2) if k else h)
        return F.silu(h).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class _Residual(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inner), nn.GroupNorm(8, outer)
        self.conv1, self.conv2 = nn.Conv2d(inner, outer, 3, padding=1), nn.Conv2d(outer, outer, 3, padding=1)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))
