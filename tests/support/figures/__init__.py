"""Which number of a page comes from which committed result: a file for each page, named as the page is.

A file has FIGURES, what the page says beside what was measured, and STATED, numbers that were not measured, each with
its reason. To add one:

    from figures.figure import Figure, Row, Stated
    from figures.results import results

    own = results("overhead")["own_us"]  # benchmarks/results/overhead.json
    FIGURES = [
        Figure("Own time is {18} to {30} us on a <64> x <64> state", min(own), max(own)),
        Row("| `DDIM()` | 20 |", own["DDIM"], ...),
    ]
    STATED = [Stated("a learning rate of <0.1>", "an argument")]

Braces hold what is compared: the number as printed is the value rounded to the digits that are printed. A number in
<> was set, not measured. What else looks like a measurement on the page makes the test fail (`reading`).
"""
