"""CLIP scorers with tiny random weights against transformers' own forward and image processor."""

import json
import string

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from pullback.guidance import Aesthetic, CLIPScore, PickScore, Preprocess
from pullback.guidance.rewards.clip import AestheticHead

transformers = pytest.importorskip("transformers")
try:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
except (
    ImportError,
    RuntimeError,
) as error:  # a torchvision of another torch breaks transformers' vision models
    pytest.skip(f"transformers cannot import CLIP here: {error}", allow_module_level=True)

SIDE = 16
LAYERS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PREPROCESS = Preprocess(SIDE)


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(5)
    text = {
        **LAYERS,
        "vocab_size": 60,
        "max_position_embeddings": 12,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    config = CLIPConfig(
        text_config=text, vision_config={**LAYERS, "image_size": SIDE, "patch_size": 8}, projection_dim=12
    )
    return CLIPModel(config).double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """CLIP's own tokenizer over the letters, without merges."""
    folder = tmp_path_factory.mktemp("tokens")
    words = [
        "<|startoftext|>",
        "<|endoftext|>",
        *string.ascii_lowercase,
        *(f"{c}</w>" for c in string.ascii_lowercase),
    ]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def pictures(count=3, height=24, width=40):
    """Smooth colour images in [-1, 1], so that bytes and clamping matter little."""
    torch.manual_seed(1)
    coarse = torch.rand(count, 3, 4, 4, dtype=torch.float64) * 1.2 - 0.6
    return F.interpolate(coarse, (height, width), mode="bicubic")


def processor():
    names = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return transformers.CLIPImageProcessor(**names)


@pytest.mark.parametrize("height, width", [(24, 41), (40, 24), (SIDE, SIDE), (9, 9)])
def test_preprocessing_is_the_processors_own(height, width):
    x = pictures(3, height, width)
    bytes_ = (255 * (x + 1) / 2).round().to(torch.uint8)
    theirs = processor()(
        [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in bytes_], return_tensors="np"
    )
    ours = PREPROCESS(bytes_.double() / 127.5 - 1)
    gap = (ours - torch.from_numpy(np.stack(theirs["pixel_values"]))).abs().max()
    assert ours.shape == (3, 3, SIDE, SIDE)
    assert float(gap) < 1.6 / 255 / min(PREPROCESS.std)  # the processor rounds to bytes, once per axis


def test_preprocessing_is_antialiased():
    stripes = torch.ones(1, 1, 4 * SIDE, 4 * SIDE)
    stripes[..., ::4] = -1.0
    out = PREPROCESS(stripes)[0, 0]
    assert float(out[2:-2, 2:-2].std()) < 0.01  # nearest samples without it would be all black or all white
    assert abs(float(out.mean()) - (0.75 - PREPROCESS.mean[0]) / PREPROCESS.std[0]) < 0.05


def test_scores_are_those_of_transformers(clip, tokenizer):
    x, prompts = pictures(), ["a cat", "dogs", "an owl at night"]
    tokens = tokenizer(prompts, padding=True, truncation=True, max_length=12, return_tensors="pt")
    theirs = clip(pixel_values=PREPROCESS(x), **tokens)
    pick, score = PickScore(clip, tokenizer, PREPROCESS), CLIPScore(clip, tokenizer, PREPROCESS)
    assert torch.allclose(pick(x, prompts), theirs.logits_per_image.diagonal(), rtol=1e-10)
    assert torch.allclose(
        score(x, prompts), 100 * (theirs.image_embeds * theirs.text_embeds).sum(1), rtol=1e-10
    )
    assert torch.equal(score(x, score.encode(prompts)), score(x, prompts))
    assert torch.allclose(score(x, "dogs"), 100 * theirs.image_embeds @ theirs.text_embeds[1], rtol=1e-10)
    assert torch.allclose(CLIPScore(clip, tokenizer, PREPROCESS, scale=None)(x, prompts), pick(x, prompts))


def test_long_prompts_are_cut(clip, tokenizer):
    assert CLIPScore(clip, tokenizer, PREPROCESS).encode(["x" * 50]).shape == (1, 12)


def test_aesthetic_is_the_head_on_the_unit_embedding(clip):
    head, x = AestheticHead(12).double().eval(), pictures()
    embedding = clip.visual_projection(clip.vision_model(pixel_values=PREPROCESS(x)).pooler_output)
    embedding = embedding / embedding.norm(dim=1, keepdim=True)
    for k in (0, 2, 4, 6, 7):
        embedding = embedding @ head.layers[k].weight.T + head.layers[k].bias
    assert torch.allclose(Aesthetic(clip, head, PREPROCESS)(x), embedding[:, 0], rtol=1e-10)


@pytest.mark.parametrize("kind", ["clip", "pick", "aesthetic"])
def test_gradient_and_batch_mates(clip, tokenizer, kind):
    x, prompts = pictures().requires_grad_(), ["a cat", "dogs", "an owl at night"]
    reward = {
        "clip": CLIPScore(clip, tokenizer, PREPROCESS),
        "pick": PickScore(clip, tokenizer, PREPROCESS),
        "aesthetic": Aesthetic(clip, AestheticHead(12).double().eval(), PREPROCESS),
    }[kind]
    text = None if kind == "aesthetic" else reward.encode(prompts)
    value = reward(x, text)
    way, h = torch.randn_like(x), 1e-5
    grad = (torch.autograd.grad(value.sum(), x)[0] * way).flatten(1).sum(1)
    with torch.no_grad():
        slope = (reward(x + h * way, text) - reward(x - h * way, text)) / (2 * h)
    assert torch.allclose(slope, grad, rtol=1e-5, atol=1e-10) and float(slope.abs().min()) > 1e-8
    for b in range(3):
        one = reward(x[b : b + 1], None if text is None else text[b : b + 1])
        assert torch.allclose(one, value[b : b + 1], rtol=1e-9)


def test_gradient_survives_saturation(clip, tokenizer):
    x = (4 * pictures()).requires_grad_()
    grad = torch.autograd.grad(CLIPScore(clip, tokenizer, PREPROCESS)(x, "dogs").sum(), x)[0]
    assert float(grad[x.abs() > 1].abs().max()) > 0


def test_half_precision_scorer_gives_rewards_in_the_samples_dtype(clip, tokenizer):
    half = CLIPModel(clip.config).bfloat16().eval()
    half.load_state_dict(clip.state_dict())
    x, text = pictures(), CLIPScore(clip, tokenizer, PREPROCESS).encode(["dogs"] * 3)
    value = CLIPScore(half, None, PREPROCESS)(x, text)
    assert value.dtype == torch.float64 and torch.allclose(
        value, CLIPScore(clip, None, PREPROCESS)(x, text), atol=2.0
    )


def test_from_a_folder(clip, tokenizer, tmp_path):
    clip.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    head = AestheticHead(12).double().eval()
    save_file(head.state_dict(), str(tmp_path / "head.safetensors"))
    torch.save(head.state_dict(), tmp_path / "head.pth")
    x, prompts = pictures(), ["a cat", "dogs", "an owl at night"]
    found = PickScore.from_path(tmp_path)
    assert isinstance(found, PickScore) and found.preprocess == PREPROCESS
    assert not any(p.requires_grad for p in found.model.parameters())
    assert torch.allclose(found(x, prompts), PickScore(clip, tokenizer, PREPROCESS)(x, prompts), rtol=1e-5)
    for name in ("head.safetensors", "head.pth"):
        value = Aesthetic.from_path(tmp_path, tmp_path / name)(x)
        assert torch.allclose(value, Aesthetic(clip, head, PREPROCESS)(x), rtol=1e-4)


@pytest.mark.parametrize("call, words", [
    (lambda clip: CLIPScore(clip, None, PREPROCESS)(pictures(), ["a", "b", "c"]), "no tokenizer"),
    (lambda clip: CLIPScore(clip, None, PREPROCESS)(pictures()), "text None"),
    (lambda clip: CLIPScore(clip, None, PREPROCESS)(pictures(), torch.zeros(2, 12)), r"text \(2, 12\)"),
    (lambda clip: CLIPScore(clip, None, PREPROCESS)(pictures()[:, :2], torch.zeros(3, 12)), "expected images"),
    (lambda clip: Aesthetic(clip, AestheticHead(12).double(), PREPROCESS)(pictures()), "train mode"),
    (lambda clip: Preprocess(low=1.0, high=0.0), "low < high"),
])  # fmt: skip
def test_bad_input(clip, call, words):
    with pytest.raises(ValueError, match=words):
        call(clip)
