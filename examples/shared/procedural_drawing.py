"""How a procedural face is drawn: tones from 0 to 1 painted over one another by soft signed distances.

The head is half an ellipsoid whose points are turned back to where they lie on the face, so that features move with the
pose as its depth says; its surface with nose, brows, cheeks and lips on it is lit by Lambert's law. Lengths are in half
sides of the picture, y points down; `p` is a person and `q` a photograph, by name (B, 1, 1, 1), see procedural.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FINE = 64  # drawn on twice the side of the picture
Table = dict[str, Tensor]


def inside(distance: Tensor, edge: float = 0.02) -> Tensor:
    """1 where a signed distance is well below 0, 0 well above, smooth over about a pixel."""
    return torch.sigmoid(-distance / edge)


def hill(dx: Tensor, dy: Tensor) -> Tensor:
    """exp(-dx^2 - dy^2), of distances in its widths."""
    return torch.exp(-dx.square() - dy.square())


def over(below: Tensor, tone: Tensor | float, cover: Tensor) -> Tensor:
    """`tone` painted on `below` where `cover` is 1."""
    return below + cover * (tone - below)


def drawing(p: Table, q: Table) -> Tensor:
    """The picture on the fine grid (B, 1, 64, 64), tones from 0 to 1, back to front."""
    line = (torch.arange(FINE).to(p["skin"]) + 0.5) / FINE * 2 - 1
    x, y = line.reshape(1, 1, 1, -1) - q["shift_x"], line.reshape(1, 1, -1, 1) - q["shift_y"] - 0.03
    cos, sin = q["roll"].cos(), q["roll"].sin()
    x, y = (cos * x + sin * y) / q["zoom"], (cos * y - sin * x) / q["zoom"]

    out = q["background"] + q["background_slope"] * (x + y) * 0.7
    out = hair_behind(out, x, y, p, q)
    out = neck_and_clothes(out, x, y, p, q)
    skin, cover = head(x, y, p, q)
    out = over(out, skin, cover)
    return hair_in_front(out, x, y, p, q)


def outline(x: Tensor, y: Tensor, p: Table) -> Tensor:
    """Signed distance, roughly, to the edge of the face: a superellipse, narrower towards the chin."""
    v = y / p["face_height"]
    width = p["face_width"] * (1 - p["jaw"] * F.softplus(6 * (v - 0.1)).div(6).square())
    power = p["squareness"]
    radius = ((x / width).abs().clamp(min=1e-4) ** power + v.abs().clamp(min=1e-4) ** power) ** (1 / power)
    return (radius - 1) * p["face_width"]


def depth(x: Tensor, y: Tensor, p: Table) -> Tensor:
    """Height of the bare head above the picture's plane, and a little to spare where it ends."""
    radius = (x / (1.05 * p["face_width"])).square() + (y / (1.1 * p["face_height"])).square()
    return p["face_width"] * (F.softplus(12 * (1 - radius)) / 12 + 0.03).sqrt()


def turned(x: Tensor, y: Tensor, q: Table, z: Tensor) -> tuple[Tensor, Tensor]:
    """Where on the face a point of the picture lies that is `z` above its plane."""
    return (x - z * q["turn"].sin()) / q["turn"].cos(), y - z * q["nod"].sin()


def head(x: Tensor, y: Tensor, p: Table, q: Table) -> tuple[Tensor, Tensor]:
    """Tones of the lit face and where it covers."""
    base = depth(x, y, p)
    fx, fy = turned(x, y, q, base)
    nx, ny = turned(x, y, q, base + 0.16 * p["nose_height"])  # the nose stands out and moves further
    height = base + relief(fx, fy, nx, ny, p)
    tone = paint(fx, fy, nx, ny, p, q) * (1 - 0.2 * inside(-outline(x, y, p)))
    ears = inside(torch.minimum(*(ear(x, y, side, p, q) for side in (-1, 1)))) * inside(
        p["hair_length"] - 0.1, 0.06
    )
    cover = 1 - (1 - inside(outline(x, y, p))) * (1 - ears)
    return tone * shade(height, q), cover


def ear(x: Tensor, y: Tensor, side: int, p: Table, q: Table) -> Tensor:
    dx = (x - side * 0.95 * p["face_width"] + 0.1 * q["turn"].sin()) / 0.07
    dy = (y - p["eye_height"] - 0.09) / 0.14
    return ((dx.square() + dy.square() + 1e-6).sqrt() - 1) * 0.07


def shade(height: Tensor, q: Table) -> Tensor:
    """Lambert's law on the surface, with ambient light."""
    dy, dx = torch.gradient(height, spacing=2 / FINE, dim=(2, 3))
    lx, ly, lz = q["light_x"], q["light_y"], torch.ones_like(q["light_x"])
    cosine = (lz - dx * lx - dy * ly) / (
        (1 + dx.square() + dy.square()) * (1 + lx.square() + ly.square())
    ).sqrt()
    return q["ambient"] + (1.08 - q["ambient"]) * F.softplus(8 * cosine) / 8


def landmarks(p: Table) -> tuple[Tensor, Tensor]:
    """y of the nose's end and of the mouth."""
    nose = p["eye_height"] + p["nose_length"]
    return nose, nose + p["mouth_drop"] * (p["face_height"] - nose)


def relief(x: Tensor, y: Tensor, nx: Tensor, ny: Tensor, p: Table) -> Tensor:
    """What stands out of the bare head and what lies deep."""
    nose, mouth = landmarks(p)
    along = (ny - p["eye_height"]) / p["nose_length"]  # 0 between the eyes, 1 at the tip
    ridge = torch.sigmoid(7 * (along - 0.35)) * inside(along - 1.02, 0.06)
    width = p["nose_width"] * (0.45 + 0.4 * along.clamp(0, 1.2))
    out = 0.15 * p["nose_height"] * ridge * hill(nx / width, torch.zeros_like(nx))
    for side in (-1, 1):
        ex = x - side * p["eye_spacing"]
        out = out - 0.06 * p["socket"] * hill(ex / 0.13, (y - p["eye_height"]) / 0.085)
        out = out + 0.05 * p["cheekbones"] * hill((x - side * 0.29) / 0.12, (y - p["eye_height"] - 0.2) / 0.1)
        wing = hill((nx - side * 0.7 * p["nose_width"]) / 0.045, (ny - nose + 0.03) / 0.04)
        out = out + 0.05 * wing
    out = out + 0.05 * hill(x / (1.1 * p["mouth_width"]), (y - mouth) / (1.3 * p["lip_thickness"]))
    return out + 0.05 * hill(x / 0.14, (y - 0.86 * p["face_height"]) / 0.08)


def paint(x: Tensor, y: Tensor, nx: Tensor, ny: Tensor, p: Table, q: Table) -> Tensor:
    """The face's own tones, unlit: skin, beard, mouth, nostrils, eyes, brows."""
    nose, mouth = landmarks(p)
    skin = p["skin"]
    out = skin * (1 - 0.06 * hill(x / 0.3, (y - nose) / 0.2))
    hair = hair_tone(p)
    below = inside(nose + 0.10 + 0.5 * (0.24 - x.abs()).clamp(min=0) - y, 0.05)
    below = below * inside(0.1 - torch.hypot(x / 1.1, (y - mouth) / 0.9), 0.05)
    out = over(out, hair, 0.75 * F.softplus(6 * p["beard"]) / 6 * below)
    lip = hill(x / (0.95 * p["mouth_width"]), (y - 0.5 * (nose + mouth) - 0.025) / 0.045)
    out = over(out, hair, (1.1 * F.softplus(6 * p["moustache"]) / 6).clamp(max=1) * lip)
    out = nostrils_and_folds(out, x, y, nx, ny, p)
    out = lips(out, x, y - mouth, p, q)
    for side in (-1, 1):
        ex, ey = side * x - p["eye_spacing"], y - p["eye_height"]
        out = eye(out, ex, ey - p["eye_tilt"] * -ex, side, p, q)
        out = brow(out, ex, ey + p["brow_gap"] + q["brow_raise"], p)
    return out


def nostrils_and_folds(out: Tensor, x: Tensor, y: Tensor, nx: Tensor, ny: Tensor, p: Table) -> Tensor:
    nose, mouth = landmarks(p)
    for side in (-1, 1):
        hole = hill((nx - side * 0.5 * p["nose_width"]) / 0.03, (ny - nose - 0.005) / 0.02)
        out = over(out, 0.35 * p["skin"], 0.55 * hole)
        down = (y - nose + 0.02) / (mouth - nose + 0.1)  # 0 beside the nose, 1 beyond the mouth's corner
        bend = side * (
            p["nose_width"] + 0.02 + (p["mouth_width"] - p["nose_width"] + 0.06) * down.clamp(0, 1)
        )
        fold = hill((x - bend) / 0.028, 1.6 * (down - 0.5))
        out = out * (1 - 0.3 * p["folds"] * fold)
    return out * (1 - 0.18 * hill(nx / (0.9 * p["nose_width"]), (ny - nose - 0.045) / 0.03))


def lips(out: Tensor, x: Tensor, y: Tensor, p: Table, q: Table) -> Tensor:
    """A darker ellipse, the line between the lips, and what an open mouth shows."""
    width = p["mouth_width"] * (1 + 0.14 * q["smile"])
    u = x / width
    y = y + 0.055 * q["smile"] * (u.square() - 0.3)  # a smile lifts the corners
    opened = 0.07 * F.softplus(8 * q["mouth_open"]) / 8
    taper = (1 - u.square()).clamp(min=0)
    thick = p["lip_thickness"] + 0.6 * opened
    shape = ((u.square() + (y / thick).square() + 1e-6).sqrt() - 1) * thick
    out = over(out, out * (1 - p["lip_tone"] - 0.08), inside(shape, 0.018))
    gap = y.abs() - opened * taper - 0.004
    out = over(out, 0.3 * p["skin"], 0.85 * inside(gap, 0.012) * inside((u.abs() - 1) * width, 0.02))
    teeth = inside((y + 0.3 * opened).abs() - (0.55 * opened - 0.008), 0.012) * inside(
        (u.abs() - 0.75) * width
    )
    return over(out, 0.9, 0.85 * teeth)


def eye(out: Tensor, x: Tensor, y: Tensor, side: int, p: Table, q: Table) -> Tensor:
    """White, iris and pupil between two lids, the upper one a dark line; x grows away from the nose."""
    wide, tall = p["eye_width"], p["eye_open"] * q["lids"]
    u = x / wide
    arch = tall * (1 - u.square())
    white = inside(y.abs() - arch, 0.012)
    iris = inside(torch.hypot(x - side * q["gaze"] * 0.4 * wide, y + 0.006) - 0.062, 0.014)
    ball = over(torch.full_like(out, 1.0) * (0.55 + 0.4 * p["skin"]), p["iris_tone"] * 0.6, iris)
    out = over(out, ball, white)
    lid = hill((y + arch) / 0.02, torch.zeros_like(y)) * inside((u.abs() - 1.08) * wide, 0.014)
    out = over(out, 0.14, 0.8 * lid)
    under = hill((y - arch - 0.02) / 0.03, u)
    return out * (1 - 0.12 * (0.4 + p["folds"]) * under)


def brow(out: Tensor, x: Tensor, y: Tensor, p: Table) -> Tensor:
    """An arc thinner towards the temple; a positive tilt lifts its outer end."""
    u = x / (1.45 * p["eye_width"])
    middle = 0.035 * u.square() - p["brow_tilt"] * x
    thick = p["brow_thickness"] * (1 - 0.3 * u.clamp(-1.2, 1.2))
    cover = inside((y - middle).abs() - thick, 0.014) * inside((u.abs() - 1) * 0.15, 0.02)
    return over(out, 0.6 * hair_tone(p), p["brow_tone"] * cover)


def hair_tone(p: Table) -> Tensor:
    return p["hair_tone"].clamp(min=0.02)


def hair_outline(x: Tensor, y: Tensor, p: Table, volume: Tensor) -> Tensor:
    """Signed distance, roughly, to the hair's outer edge: round above, straight down to its length."""
    wide, top = p["face_width"] + volume, p["face_height"] + 0.9 * volume
    y = torch.where(y < 0, y / top, 0 * y)
    return (torch.hypot(x / wide, y + 1e-4) - 1) * wide


def lit_hair(x: Tensor, y: Tensor, p: Table, q: Table) -> Tensor:
    """Hair with strands and a sheen on the side of the light."""
    strands = torch.sin(38 * x + 6 * p["hair_part"] * y) * torch.sin(11 * x - 9 * y)
    sheen = hill((x - 0.3 * q["light_x"]) / 0.35, (y + 0.55) / 0.18)
    tone = hair_tone(p)
    return tone * (0.92 + 0.07 * strands) + 0.13 * (0.3 + tone) * sheen


def hair_behind(out: Tensor, x: Tensor, y: Tensor, p: Table, q: Table) -> Tensor:
    """What falls beside the neck."""
    x = x + 0.15 * q["turn"].sin()
    end = y - p["hair_length"]
    cover = inside(hair_outline(x, y, p, p["hair_volume"])) * inside(end, 0.05)
    return over(out, 0.8 * lit_hair(x, y, p, q), cover)


def hair_in_front(out: Tensor, x: Tensor, y: Tensor, p: Table, q: Table) -> Tensor:
    """What lies on the forehead and the temples, above the hairline."""
    base = depth(x, y, p)
    fx, fy = turned(x, y, q, 0.8 * base)
    u = (fx - p["hair_part"] * 0.6) / p["face_width"]
    line = p["hairline"] + 0.24 * p["hair_curve"] * u.square() + 0.2 * p["hair_part"] * u
    temple = (
        0.86 + 0.1 * inside(p["hair_length"] - 0.2, 0.1) - (fx / p["face_width"]).abs()
    )  # long hair stands out
    side = inside(torch.maximum(temple * p["face_width"], fy - p["hair_length"] * 0.9), 0.03)
    on_top = inside(fy - line, 0.025)
    cover = 1 - (1 - on_top) * (1 - side)
    return over(out, lit_hair(x, y, p, q), cover * inside(hair_outline(x, y, p, p["hair_volume"])))


def neck_and_clothes(out: Tensor, x: Tensor, y: Tensor, p: Table, q: Table) -> Tensor:
    wide = 0.62 * p["face_width"] + 0.05 * inside(0.75 - y, 0.1)
    neck = inside(x.abs() - wide) * inside(0.2 - y, 0.03)
    out = over(out, 0.74 * p["skin"] * (1 - 0.3 * hill(x / 0.5, (y - p["face_height"] - 0.02) / 0.12)), neck)
    shoulders = inside(0.72 + 0.25 * x.square() - y, 0.03)
    collar = inside(0.94 - x.abs() - 0.9 * y, 0.03)
    return over(out, q["clothes"], shoulders * collar)
