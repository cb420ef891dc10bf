"""docs/editing.md"""

from figures.figure import Figure, Row, Stated
from figures.results import results

found, trips = results("digits/edit_digits"), results("small_studies")["round trips"]
LEARNED = found["RF-Inversion, learned gamma(t), eta(t)"]
FLOW = found["FlowEdit"]
ROWS = {
    "no edit: the nearest real digit of the target class": found["nearest real digit"][0],
    "`rf_inversion` gamma 0.5, window to 0.3": found["RF-Inversion, gamma 0.5"][2],
    "`rf_inversion` gamma 0.5, window to 0.2": found["RF-Inversion, gamma 0.5"][3],
    "`rf_inversion` gamma 0, window to 0.2": found["RF-Inversion, gamma 0"][3],
    "`rf_inversion` gamma 0, window to 0.1": found["RF-Inversion, gamma 0"][4],
    "`rf_inversion`, gamma(t) and eta(t) learned, weight 5": LEARNED[0],
    "`rf_inversion`, gamma(t) and eta(t) learned, weight 2": LEARNED[1],
    "`flow_edit`, n_max 10 of 12": FLOW[3],
    "`flow_edit`, n_max 12 of 12": FLOW[4],
    "`sdedit` from t = 0.83": found["SDEdit"][4],
}
FRESH = {f"window to 0.{5 - k} |": found["fresh noise, same windows"][k] for k in (2, 3)}
CELLS = ("judge", "distance", "nearest", "ink", "slant")
success = LEARNED[0]["judge"]

FIGURES = [
    *(Row(f"| {label} |", *(row[cell] for cell in CELLS)) for label, row in ROWS.items()),
    *(
        Row(
            "| ... fresh noise, same window |",
            *(row[cell] for cell in CELLS),
            under=f"`rf_inversion` gamma 0.5, {window}",
        )
        for window, row in FRESH.items()
    ),
    Figure("a success of {0.94} is {0.04}", success, (success * (1 - success) / 36) ** 0.5),
    Figure(
        "At success {0.94} the distance is {0.41}, where `flow_edit`, the next best, needs {0.54} at {0.97}",
        success,
        LEARNED[0]["distance"],
        FLOW[3]["distance"],
        FLOW[3]["judge"],
    ),
    Figure(
        "DDIM inversion {0.20}, EDICT {2e-9}, BDIA(1) {5e-16}, OBELM {3e-16}, ReversibleHeun {4e-16}, BDIA(0.5) {0.10}, "
        "recovered noise {1e-18}",
        *trips["rms"].values(),
    ),
    Figure(
        "has std {1.03} under DDPM, `edit_friendly`'s {2.7}, about",
        *trips["std of the recovered noise"].values(),
    ),
]
STATED = [
    Stated("Riccati's recursion, <1e-11>)", "the tolerance of the test"),
    Stated("against finite differences: <1e-6>)", "the tolerance of the test"),
    Stated("eta <0.9> for a quarter", "where the descent begins"),
    Stated("BDIA(<0.5>)", "its gamma"),
]
