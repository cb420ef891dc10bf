"""All the image pipelines of the zoo."""

from .dit import CASES as DIT
from .flow import CASES as FLOW
from .newer import CASES as NEWER
from .prompted import CASES as PROMPTED
from .sdxl import CASES as SDXL
from .stable_diffusion import CASES as STABLE_DIFFUSION
from .stages import CASES as STAGES

CASES = (*STABLE_DIFFUSION, *SDXL, *STAGES, *FLOW, *DIT, *PROMPTED, *NEWER)
