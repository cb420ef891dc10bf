"""docs/gallery.md, which docs/gallery.py writes."""

from figures.figure import Generated
from figures.results import script

FIGURES = [Generated(script("gallery", "docs").page())]
STATED = []
