"""Which arguments of a pipeline's call are prompts, as text and as embeddings."""

from collections.abc import Mapping
from typing import Any


def is_text(name: str) -> bool:
    """Whether an argument of a pipeline is a prompt: prompt, prompt_2, negative_prompt."""
    return name.rstrip("_0123456789") in ("prompt", "negative_prompt")


def is_negative(name: str) -> bool:
    """Whether it is what the picture is not to be."""
    return "negative" in name


def check_no_text(cond: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise where a prompt is text in `cond`, and `arguments` has its embedding already."""
    for name, value in cond.items():
        if not is_text(name) or value is None:
            continue
        told = {**arguments, **cond}
        stands = [
            each for each in told
            if "prompt_embeds" in each and is_negative(each) == is_negative(name) and told[each] is not None
        ]  # fmt: skip
        if stands:
            raise ValueError(
                f"cond: got {name}={value!r}, expected embeddings: {stands[0]} was given to from_diffusers; "
                f"pass cond=found.encode_prompt({name}={value!r})"
            )
