"""Generated runs on two processes: DDP in three modes, FSDP2 in two, behind lambdas, dicts, lists. Right or refused."""

import json
import os
import pathlib
from collections import Counter

import pytest
from generated.ranks import cases
from two_ranks import two_ranks

COUNT = int(os.environ.get("CASES", "120"))
FAULTS = {"SILENT", "UNCLEAR"}


@pytest.mark.slow
def test_two_processes(tmp_path):
    """One test: one pair of ranks. Both must come to the same verdict."""
    first, second = _ranks(tmp_path)
    assert len(first) == len(second) == len(cases(COUNT))
    assert [case[3] for case in first] == [case[3] for case in second]
    verdicts = [case[3] for case in first]
    assert verdicts.count("RIGHT") >= 0.6 * len(verdicts), Counter(verdicts)
    assert verdicts.count("UNJUDGED") <= 0.05 * len(verdicts), Counter(verdicts)
    found = [f"{verdict}: {case}\n    {told}" for _, _, case, verdict, told in first if verdict in FAULTS]
    assert not found, "\n".join(found)


def _ranks(folder: pathlib.Path) -> list[list[list[str]]]:
    """[wrapper, container, case, verdict, what was told] for each case of each rank."""
    code = (
        "import conftest, sys; from generated.ranks import work; rank, port, to, count = sys.argv[1:]; "
        "work(int(rank), int(port), to, int(count))"
    )
    two_ranks(code, folder, COUNT, seconds=600)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
