"""Generated runs on two processes: DDP in three modes, FSDP2 in two, behind lambdas, dicts, lists. Right or refused."""

import json
import os
import pathlib
import socket
import subprocess
import sys
from collections import Counter

import pytest
from generated.ranks import cases

TESTS = pathlib.Path(__file__).parents[1]
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import conftest, sys; from generated.ranks import work; rank, port, to, count = sys.argv[1:]; "
        "work(int(rank), int(port), to, int(count))"
    )
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS / "support"), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(rank), str(port), str(folder), str(COUNT)],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=600)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(said)[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
