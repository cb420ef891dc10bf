"""The models of the procedural faces by name: a diffusion autoencoder and three recognisers.

    model = autoencoder()                     # a Denoiser: v under VP(), cond a semantic code (B, 64) or None
    code = model.network.encode(faces)        # faces (B, 1, 32, 32) of procedural.py
    recogniser(0)(faces)                      # unit vectors (B, 64); 0 and 1 are convnets, 2 a mixer of patches
    thresholds()[0][0.01]                     # largest 1 - cosine at a false match rate of 1 %, from other people

All are trained by train_procedural.py, on the people TRAIN; procedural.json is their card.
"""

import json
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from pullback.solvers import VP, Denoiser, V

WEIGHTS = pathlib.Path(__file__).parents[1] / "weights"
CODE = 64


class Modulated(nn.Module):
    """Residual block whose second norm is scaled and shifted by an embedding (adaptive group norm)."""

    def __init__(self, inner: int, outer: int, emb: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inner), nn.GroupNorm(8, outer)
        self.conv1, self.conv2 = nn.Conv2d(inner, outer, 3, padding=1), nn.Conv2d(outer, outer, 3, padding=1)
        self.emb = nn.Linear(emb, 2 * outer)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.emb(emb)[:, :, None, None].chunk(2, 1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class Encoder(nn.Module):
    """A face (B, 1, 32, 32) to its semantic code (B, 64), of mean 0 and variance 1 over the entries."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 16, CODE),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(self.body(x), (CODE,))


class Autoencoder(nn.Module):
    """A diffusion autoencoder: encode(x) -> code (B, 64), and v(x_t, t, code) by a UNet on 2 x 2 patches.

    The code holds what the picture means, the noise that inversion finds what is left. No code (None, or zeros: it
    was dropped for a tenth of the training) leaves an unconditional model. Smooth everywhere.
    Source: Preechakul et al. 2022 (arXiv 2111.15640).
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        emb = 4 * width
        self.encode = Encoder(width)
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(200.0), width // 2)))
        self.time = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.code = nn.Linear(CODE, emb, bias=False)
        self.enter = nn.Conv2d(4, width, 3, padding=1)
        self.down1, self.down2 = Modulated(width, width, emb), Modulated(width, 2 * width, emb)
        self.middle = Modulated(2 * width, 2 * width, emb)
        self.up2, self.up1 = Modulated(4 * width, width, emb), Modulated(2 * width, width, emb)
        self.leave = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        angle = t[:, None] * self.frequencies.to(t)
        emb = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        emb = F.silu(emb if cond is None else emb + self.code(cond))
        fine = self.down1(self.enter(F.pixel_unshuffle(x, 2)), emb)
        coarse = self.down2(F.avg_pool2d(fine, 2), emb)
        h = self.up2(torch.cat([self.middle(coarse, emb), coarse], 1), emb)
        h = self.up1(torch.cat([F.interpolate(h, scale_factor=2.0), fine], 1), emb)
        return F.pixel_shuffle(self.leave(h), 2)


def centred(features: int) -> nn.Module:
    """To 64 numbers that have mean 0 over faces, so that directions are not all alike."""
    return nn.Sequential(nn.Linear(features, 64), nn.BatchNorm1d(64, affine=False))


class ConvRecogniser(nn.Module):
    """Five convolutions to unit vectors (B, 64)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = (width, width, 2 * width, 2 * width, 4 * width)
        layers: list[nn.Module] = [nn.Conv2d(1, width, 5, stride=2, padding=2), nn.SiLU()]
        for k, (inner, outer) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            layers += [nn.GroupNorm(8, inner), nn.Conv2d(inner, outer, 3, padding=1), nn.SiLU()]
            layers += [nn.AvgPool2d(2)] if k % 2 else []
        self.body = nn.Sequential(*layers, nn.GroupNorm(8, 4 * width), nn.Flatten())
        self.head = centred(4 * width * 16)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.head(self.body(x)), dim=1)


class Mixing(nn.Module):
    """A perceptron over the patches and one over the features, each added to what it saw (MLP-Mixer)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.features = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norms[0](x).mT).mT
        return x + self.features(self.norms[1](x))


class MixerRecogniser(nn.Module):
    """64 patches of 4 x 4, three mixing layers, 16 features kept of each patch: unit vectors (B, 64)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(16, width)
        self.layers = nn.Sequential(*(Mixing(64, width) for _ in range(3)), nn.LayerNorm(width))
        self.squeeze = nn.Linear(width, 16)
        self.head = centred(16 * 64)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(self.enter(F.pixel_unshuffle(x, 4).flatten(2).mT))
        return F.normalize(self.head(self.squeeze(h).flatten(1)), dim=1)


RECOGNISERS = (lambda: ConvRecogniser(24), lambda: ConvRecogniser(24), lambda: MixerRecogniser(80))


def frozen(network: nn.Module, name: str) -> nn.Module:
    """With its weights from safetensors (nothing is ever unpickled), in float32."""
    network = network.float()
    network.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"))
    return network.eval().requires_grad_(False)


def autoencoder() -> Denoiser:
    """The diffusion autoencoder as a Denoiser; its `network.encode` gives the codes."""
    return Denoiser(frozen(Autoencoder(), "procedural_autoencoder"), VP(), V)


def recogniser(index: int) -> nn.Module:
    """Recogniser 0, 1 (convnets of two seeds) or 2 (another architecture): faces to unit vectors (B, 64)."""
    if index not in range(len(RECOGNISERS)):
        raise ValueError(f"recogniser: got {index!r}, expected one of 0, 1, 2")
    return frozen(RECOGNISERS[index](), f"procedural_recogniser{index}")


def card() -> dict:
    """What was measured when the models were trained."""
    return json.loads((WEIGHTS / "procedural.json").read_text())


def thresholds() -> list[dict[float, float]]:
    """Of each recogniser, the distance 1 - cosine at a false match rate, set on the people VALIDATION."""
    found = (card()[f"recogniser{k}"]["thresholds"] for k in range(len(RECOGNISERS)))
    return [{float(rate): value for rate, value in each.items()} for each in found]
