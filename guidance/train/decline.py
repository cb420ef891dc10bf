"""The guard against reward hacking: held-out rewards that decline while the trained one grows."""

import math
from typing import Any


class Decline:
    """Watches held-out rewards: `seen` is true once one of them lay below its best by more than its standard
    error `patience` times on end.
    """

    def __init__(self, names: list[str], patience: int | None) -> None:
        self.names, self.patience = names, patience
        self.best: dict[str, float] = {}
        self.count = dict.fromkeys(names, 0)

    def seen(self, figures: dict[str, Any]) -> bool:
        """Take one evaluation in."""
        for name in self.names:
            below = figures[name] < self.best.get(name, -math.inf) - figures[f"{name}_se"]
            self.count[name] = self.count[name] + 1 if below else 0
            self.best[name] = max(self.best.get(name, -math.inf), figures[name])
        return self.patience is not None and any(count >= self.patience for count in self.count.values())

    def state(self) -> dict[str, Any]:
        """What must survive a restart."""
        return {"best": dict(self.best), "count": dict(self.count)}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave; names unknown now are dropped, new ones start afresh."""
        self.best = {name: value for name, value in state["best"].items() if name in self.names}
        self.count = {name: state["count"].get(name, 0) for name in self.names}
