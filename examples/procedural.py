"""Faces drawn by formula: as many people and photographs of each as one likes, so that some can be held out.

A person is a vector of 33 numbers in [-1, 1] (the table PERSON), a photograph of one another 20 (PHOTO): pose,
expression, light, camera. `faces(people, photos)` renders addresses: the same two whole numbers give the same picture
on every machine, in any batch. `render` is differentiable in both vectors, and as half of two people is a person,
the true morph of two faces is known: the picture of the mean of their vectors.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from shared.procedural_drawing import Table, drawing
from torch import Tensor

SIDE = 32

# people that models learn from, that thresholds are set on, that nothing but a test ever sees
TRAIN, VALIDATION, TEST = range(0, 4000), range(4000, 4300), range(4300, 4600)

# name: (middle, half range); lengths in half sides of the picture, y points down, tones from 0 black to 1 white
PERSON = {
    "face_width": (0.455, 0.06),
    "face_height": (0.65, 0.06),
    "jaw": (0.30, 0.22),  # how much narrower the chin is
    "squareness": (2.35, 0.45),  # exponent of the outline, 2 an ellipse
    "skin": (0.69, 0.17),
    "eye_spacing": (0.205, 0.04),
    "eye_height": (-0.07, 0.06),
    "eye_width": (0.108, 0.026),
    "eye_open": (0.055, 0.02),
    "eye_tilt": (0.0, 0.28),
    "iris_tone": (0.22, 0.18),
    "socket": (0.5, 0.5),
    "brow_gap": (0.125, 0.035),
    "brow_thickness": (0.034, 0.018),
    "brow_tilt": (0.0, 0.3),
    "brow_tone": (0.55, 0.35),
    "nose_length": (0.26, 0.065),
    "nose_width": (0.095, 0.033),
    "nose_height": (0.55, 0.4),
    "mouth_drop": (0.40, 0.10),  # of the way from the nose to the chin
    "mouth_width": (0.19, 0.055),
    "lip_thickness": (0.05, 0.024),
    "lip_tone": (0.22, 0.2),
    "cheekbones": (0.5, 0.5),
    "folds": (0.4, 0.4),  # beside the nose and the mouth: age
    "beard": (-0.35, 0.9),  # none below 0
    "moustache": (-0.45, 0.9),
    "hair_tone": (0.25, 0.24),
    "hairline": (-0.41, 0.09),
    "hair_curve": (0.35, 0.75),  # how far the hairline falls towards the temples
    "hair_part": (0.0, 0.4),
    "hair_volume": (0.085, 0.07),
    "hair_length": (0.2, 0.7),  # y of its lower end
}
PHOTO = {
    "shift_x": (0.0, 0.07),
    "shift_y": (0.0, 0.06),
    "zoom": (1.34, 0.07),
    "roll": (0.0, 0.13),
    "turn": (0.0, 0.42),  # to the side, radians
    "nod": (0.0, 0.16),
    "light_x": (0.0, 0.9),
    "light_y": (-0.45, 0.45),
    "ambient": (0.55, 0.15),
    "background": (0.5, 0.38),
    "background_slope": (0.0, 0.12),
    "clothes": (0.4, 0.3),
    "smile": (0.3, 0.7),
    "mouth_open": (0.1, 0.6),  # shut below 0
    "lids": (0.9, 0.2),
    "gaze": (0.0, 0.35),
    "brow_raise": (0.0, 0.02),
    "brightness": (0.0, 0.06),
    "contrast": (1.0, 0.14),
    "grain": (0.02, 0.015),  # standard deviation, of a range of 2
}


def draws(person: int, photo: int, count: int) -> Tensor:
    """The first `count` uniform numbers in [-1, 1] of an address; photo -1 is the person."""
    counter = person | (photo + 1) << 64
    bits = np.random.Philox(key=20261121, counter=counter << 64)
    return torch.from_numpy(np.random.Generator(bits).uniform(-1, 1, count)).float()


def persons(people: Sequence[int]) -> Tensor:
    """(B, 33)."""
    return torch.stack([draws(person, -1, len(PERSON)) for person in people])


def photographs(people: Sequence[int], photos: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(B, 20), and grain (B, 1, 32, 32) of unit variance."""
    count, pixels = len(PHOTO), SIDE * SIDE
    drawn = torch.stack([draws(*each, count + pixels) for each in zip(people, photos, strict=True)])
    return drawn[:, :count], math.sqrt(3) * drawn[:, count:].reshape(-1, 1, SIDE, SIDE)


def faces(people: Sequence[int], photos: Sequence[int], chunk: int = 32) -> Tensor:
    """Pictures (B, 1, 32, 32) in [-1, 1] of addresses: person people[k] in their photograph photos[k]."""
    out = []
    for k in range(0, len(people), chunk):
        who, which = people[k : k + chunk], photos[k : k + chunk]
        out.append(render(persons(who), *photographs(who, which)))
    return torch.cat(out)


def passport(people: Sequence[int]) -> Tensor:
    """(B, 1, 32, 32): upright, from the front, evenly lit, without grain."""
    return render(persons(people), neutral(len(people)))


def neutral(count: int) -> Tensor:
    """The photograph (count, 20) of a passport: everything in the middle, the background light."""
    photo = torch.zeros(count, len(PHOTO), dtype=torch.float32)
    photo[:, list(PHOTO).index("background")] = 0.8
    return photo


def render(person: Tensor, photo: Tensor, grain: Tensor | None = None) -> Tensor:
    """Pictures (B, 1, 32, 32) in [-1, 1].

    Args:
        person: (B, 33) in [-1, 1], the columns of PERSON. photo: (B, 20), those of PHOTO.
        grain: (B, 1, 32, 32) of unit variance, scaled by the photograph's `grain`; none by default.
    """
    p, q = scaled(person, PERSON), scaled(photo, PHOTO)
    light = F.avg_pool2d(drawing(p, q), 2)
    light = 0.5 + q["contrast"] * (light - 0.5) + q["brightness"]
    light = light if grain is None else light + q["grain"] / 2 * grain
    return 2 * soft_clip(light) - 1


def scaled(rows: Tensor, table: dict[str, tuple[float, float]]) -> Table:
    """By name, (B, 1, 1, 1)."""
    return {
        name: (middle + half * rows[:, k]).reshape(-1, 1, 1, 1)
        for k, (name, (middle, half)) in enumerate(table.items())
    }


def soft_clip(x: Tensor) -> Tensor:
    """The identity in the middle of [0, 1], smoothly into its ends."""
    return x + (F.softplus(-40 * x) - F.softplus(40 * (x - 1))) / 40


def sheet(pictures: Tensor, columns: int) -> np.ndarray:
    """Pictures (B, 1, h, w) in [-1, 1] as one array in [0, 1], `columns` wide, for imshow."""
    count, _, height, width = pictures.shape
    rows = pictures.reshape(count // columns, columns, height, width).permute(0, 2, 1, 3)
    return ((rows.reshape(-1, columns * width).detach().double() + 1) / 2).clamp(0, 1).numpy()
