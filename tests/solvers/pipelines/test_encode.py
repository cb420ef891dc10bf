"""`encode` gives the latents that a picture is decoded from: of images, of videos by VAEs of either, of sounds."""

from typing import Any

import pytest
import torch
from pipelines.build import library, network
from pipelines.case import PipelineCase, built, single
from pipelines.parity import CASES, far, found_of
from torch import Tensor

from pullback.adjoint import sample
from pullback.solvers import DiffusersPipeline, from_diffusers

ALL = {case.name: case for case in CASES}


def opened(name: str, pipe: Any = None, **changed: Any) -> DiffusersPipeline:
    case: PipelineCase = ALL[name]
    pipe = built(case) if pipe is None else pipe
    seed = torch.Generator().manual_seed(0)
    return from_diffusers(pipe, case.steps, **{**case.call(pipe), **changed}, generator=seed)


def mean(vae: Any, picture: Tensor) -> Tensor:
    return vae.encode(picture).latent_dist.mode()


@pytest.mark.parametrize("name", ["latte", pytest.param("animatediff", marks=pytest.mark.slow),
                                  pytest.param("stable_video", marks=pytest.mark.slow)])  # fmt: skip
def test_a_video_through_a_vae_of_pictures(name: str):
    """Sample by sample and frame by frame the code of the frame, scaled; however many frames are decoded at once."""
    with single(), torch.no_grad():
        found, vae = opened(name), built(ALL[name]).vae
        video = found.decode(found.draw()).clamp(-1, 1)
        x = found.encode(video)
        frames = x if name == "stable_video" else x.transpose(1, 2)  # (B, F, C, H, W)
        for b in range(2):
            for f in range(video.shape[2]):
                own = vae.config.scaling_factor * mean(vae, video[b : b + 1, :, f])[0]
                assert far(frames[b, f], own) < 1e-5
        if name != "latte":  # which takes no such argument
            assert torch.equal(opened(name, decode_chunk_size=1).encode(video), x)
        assert not torch.equal(frames[0], frames[1]) and not torch.equal(frames[:, 0], frames[:, 1])


@pytest.mark.slow
def test_a_video_through_a_vae_of_pictures_is_the_pipelines_own_encoding():
    with single(), torch.no_grad():
        pipe, found = built(ALL["stable_video"]), opened("stable_video")
        video = found.decode(found.draw()).clamp(-1, 1)
        first = pipe._encode_vae_image(video[:, :, 0], torch.device("cpu"), 1, False)
        assert far(found.encode(video)[:, 0], pipe.vae.config.scaling_factor * first) < 1e-5
        moving = library().AnimateDiffVideoToVideoPipeline
        pipe, found = built(ALL["animatediff"]), opened("animatediff")
        video = found.decode(found.draw()).clamp(-1, 1)
        own = torch.stack([moving.encode_video(pipe, each.transpose(0, 1), None) for each in video])
        drawn = found.encode(video).transpose(1, 2)
        spread = torch.stack([pipe.vae.encode(each.transpose(0, 1)).latent_dist.std for each in video])
        # it draws, and scales afterwards; this is the mean
        assert ((own - drawn / pipe.vae.config.scaling_factor).abs() < 6 * spread).all()


def test_a_picture_through_a_vae_of_videos():
    """Qwen's, as its image-to-image pipeline encodes it."""
    with single(), torch.no_grad():
        pipe, found = built(ALL["qwen_image"]), opened("qwen_image")
        picture = found.decode(found.draw()).clamp(-1, 1)
        x = found.encode(picture)
        kind = library().QwenImageImg2ImgPipeline
        own = torch.cat([mean(pipe.vae, each[None, :, None]) for each in picture])
        scale, shift = (torch.tensor(getattr(pipe.vae.config, f"latents_{part}")).view(1, -1, 1, 1, 1)
                        for part in ("std", "mean"))  # fmt: skip
        packed = kind._pack_latents((own - shift) / scale, *own.shape[:2], *own.shape[3:])
        assert x.shape == found.draw().shape and far(x, packed) < 1e-5
        assert far(found.decode(x), pipe.vae.decode(own).sample[:, :, 0]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kandinsky22", "deepfloyd"])
def test_where_variances_are_learned_the_latents_are_the_plans(name: str):
    """Of twice the channels, as `draw` and `start` give them."""
    with single(), torch.no_grad():
        found = opened(name)
        picture = found.decode(found.draw()).clamp(-1, 1)
        x = found.encode(picture)
        assert x.shape == found.draw().shape
        again = found.decode(x)
        assert again.shape == picture.shape
        if name == "deepfloyd":  # pictures themselves
            assert torch.equal(again, picture)
        else:
            movq = built(ALL[name]).movq
            assert far(again, movq.decode(movq.encode(picture).latents, force_not_quantize=True)[0]) < 1e-4
        noise = torch.randn(found.plan.slots, *x.shape)
        assert sample(found.model, found.plan, x, noise=noise).shape == x.shape


@pytest.mark.slow
def test_a_sound():
    case = ALL["stable_audio"]
    with single(), torch.no_grad():
        pipe = case.build()
        waves: dict[str, Any] = {
            "downsampling_ratios": [1, 2],
            "channel_multiples": [1, 2],
            "sampling_rate": 4,
        }
        waves |= {"encoder_hidden_size": 8, "decoder_channels": 4, "decoder_input_channels": 4}
        pipe.vae = network("AutoencoderOobleck", **waves)
        found = opened("stable_audio", pipe)
        sound = found.decode(found.draw())
        assert far(found.encode(sound), mean(pipe.vae, sound)) < 1e-5


@pytest.mark.slow
def test_encoding_is_differentiable():
    with single():
        found = opened("latte")
        video = found.decode(found.draw()).clamp(-1, 1).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(found.encode(video).square().sum(), video)
        along, h = torch.randn(video.shape, generator=torch.Generator().manual_seed(3)), 1e-2
        with torch.no_grad():
            up, down = (found.encode(video + sign * h * along).square().sum() for sign in (1, -1))
        assert float((gradient * along).sum()) == pytest.approx(float(up - down) / (2 * h), rel=2e-2)


WRONG: dict[str, tuple[str, Any, str]] = {
    "a frame for a video": ("latte", lambda p: p[:, :, 0], r"encode: got \(2, 3, 16, 16\), expected .* 4 frames"),
    "too few frames": ("animatediff", lambda p: p[:, :, :1], "encode: got .*4 frames in all, not 2; pass as many"),
    "another size": ("sd15", lambda p: p[..., :8, :], r"encode: got \(2, 3, 8, 16\), expected a picture with code "
                     r"\(2, 4, 8, 8\), .*its code is \(2, 4, 4, 8\); pass what found.decode gives"),
    "another size of a video": ("wan", lambda p: p[..., :16], "encode: got .*its code is"),
    "channels": ("sd15", lambda p: p[:, :2], r"encode: got \(2, 2, 16, 16\), .*its vae says: "),
    "no batch": ("sd15", lambda p: p[:, 0], "encode: got .*of 4 dimensions; pass"),
    "whole numbers": ("sd15", lambda p: (255 * p).to(torch.uint8), "encode: got torch.uint8, expected floating"),
    "no VAE": ("ddpm", lambda p: p[..., :4], r"encode: got \(2, 3, 8, 4\), expected \(2, 3, 8, 8\).*has no VAE"),
    "a first frame put back": ("wan_first_frame", lambda p: p, "encode: got WanImageToVideoPipeline, which decodes 128 "
                               "of the 256 numbers .*; encode with its vae by hand"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", [
    pytest.param(each, marks=pytest.mark.slow if "video" in each or "frame" in each else ()) for each in WRONG
])  # fmt: skip
def test_what_cannot_be_encoded(wrong: str):
    name, change, message = WRONG[wrong]
    with single(), torch.no_grad():
        found = opened(name)
        with pytest.raises(ValueError, match=message):
            found.encode(change(found.decode(found.draw())))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_there_and_back_in_every_family(case: PipelineCase):
    """Latents of the plan's shape and a picture of the same size, or an error that says what to do."""
    if case.name in ("ltx_image", "kandinsky3"):  # refused; its decoder here is no MoVQ
        return
    with single(), torch.no_grad():
        found = found_of(case, built(case))
        picture = found.decode(found.draw())
        if case.name in (
            "wan_first_frame",
            "stable_audio",
        ):  # whose VAE here encodes fewer channels than it decodes
            with pytest.raises(ValueError, match=r"encode: got .*, expected .*; (pass|encode)"):
                found.encode(picture)
            return
        x = found.encode(picture)
        assert x.shape == found.draw().shape and x.dtype == found.draw().dtype and x.isfinite().all()
        assert found.decode(x).shape == picture.shape
