"""A UNet and a DiT of any size with random weights: what the benchmarks call in place of a trained network."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Embedding(nn.Module):
    """t (B,) to (B, width): sines and cosines, then two layers."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000.0), 64)))
        self.layers = nn.Sequential(nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        angle = t.float()[:, None] * self.frequencies.float()  # in bf16 neighbouring times would be one
        dtype = next(self.layers.parameters()).dtype
        return self.layers(torch.cat([angle.sin(), angle.cos()], 1).to(dtype))


class Attention(nn.Module):
    """Self-attention over tokens (B, L, width), heads of 64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = (
            max(1, width // 64),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DiTBlock(nn.Module):
    """Attention and a feed-forward part, each shifted, scaled and gated by the time. Peebles and Xie 2022."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        a, b, c, d, e, f = self.modulation(emb)[:, None].chunk(6, -1)
        x = x + c * self.attention(self.norm(x) * (1 + a) + b)
        return x + f * self.feed(self.norm(x) * (1 + d) + e)


class DiT(nn.Module):
    """A transformer over 2 x 2 patches of a latent (B, 4, side, side)."""

    def __init__(self, width: int, depth: int, side: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(4, width, 2, 2), nn.Linear(width, 16)
        self.places = nn.Parameter(0.02 * torch.randn((side // 2) ** 2, width))
        self.time = Embedding(width)
        self.blocks = nn.ModuleList(DiTBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        emb, tokens = self.time(t), self.enter(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            tokens = block(tokens, emb)
        return F.fold(self.leave(self.norm(tokens)).transpose(1, 2), x.shape[-2:], 2, stride=2)


class ResBlock(nn.Module):
    """Two convolutions with the time between them, and attention over all pixels where asked for."""

    def __init__(self, inner: int, outer: int, emb: int, attends: bool) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(8, c) for c in (inner, outer, outer))
        self.conv1, self.conv2 = nn.Conv2d(inner, outer, 3, padding=1), nn.Conv2d(outer, outer, 3, padding=1)
        self.emb = nn.Linear(emb, outer)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()
        self.attention = Attention(outer) if attends else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.emb(emb)[:, :, None, None]
        h = self.skip(x) + self.conv2(F.silu(self.norm2(h)))
        if self.attention is None:
            return h
        tokens = self.norm3(h).flatten(2).transpose(1, 2)
        return h + self.attention(tokens).transpose(1, 2).unflatten(-1, h.shape[-2:])


class UNet(nn.Module):
    """Two blocks each way at every resolution, attention below the finest. `mults`: channels in widths."""

    def __init__(self, width: int, mults: tuple[int, ...]) -> None:
        super().__init__()
        emb, channels = 4 * width, [width * m for m in mults]
        self.time = Embedding(emb)
        self.enter, self.leave = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 4, 3, padding=1)
        down, up, c = [], [], width
        for k, wide in enumerate(channels):
            down += [ResBlock(c, wide, emb, k > 0), ResBlock(wide, wide, emb, k > 0)]
            up += [ResBlock(wide + wide, wide, emb, k > 0), ResBlock(wide + c, c, emb, k > 0)][::-1]
            c = wide
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up[::-1])
        self.middle = ResBlock(c, c, emb, True)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        emb, h, skips = self.time(t), self.enter(x), []
        for k, block in enumerate(self.down):
            inner = F.avg_pool2d(h, 2) if k and k % 2 == 0 else h
            h = block(inner, emb)
            skips.append((inner, h))
        h = self.middle(h, emb)
        for k in range(len(self.up) // 2):
            (first, _), (_, last) = skips[-2 * k - 2], skips[-2 * k - 1]
            h = self.up[2 * k](torch.cat([h, last], 1), emb)
            h = self.up[2 * k + 1](torch.cat([h, first], 1), emb)
            h = F.interpolate(h, scale_factor=2.0) if k < len(self.up) // 2 - 1 else h
        return self.leave(h)
