"""All the image pipelines of the zoo."""

from .dit import CASES as DIT
from .flow import CASES as FLOW
from .newer import CASES as NEWER
from .prompted import CASES as PROMPTED
from .sdxl import CASES as SDXL
from .stable_diffusion import CASES as STABLE_DIFFUSION
from .stages import CASES as STAGES

CASES = (*STABLE_DIFFUSION, *SDXL, *STAGES, *FLOW, *DIT, *PROMPTED, *NEWER)
LEFT_OUT = {
    "amused": "steps tokens of a codebook, which have no gradient",
    "attend_and_excite": "differentiates inside its loop, and detaches the latents there",
    "ledits_pp": "replays the noise that its inversion of an image found",
    "panorama": "steps every window of a turn with a scheduler of its own",
    "repaint": "steps back and forth (undo_step) and is shown the picture by step",
    "sana_sprint": "hands out what its last step says of x0, and takes no scheduler but SCM",
    "score_sde_ve": "steps by step_correct and step_pred, several times a turn",
}
