"""Two processes that run one piece of code, as ranks 0 and 1."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Sequence

TESTS = pathlib.Path(__file__).parents[1]


def two_ranks(code: str, *arguments: object, at: Sequence[pathlib.Path] = (), seconds: float) -> None:
    """Run `code` twice with sys.argv[1:] = rank, port, *arguments; fail with what both said if either fails.

    Args:
        at: folders from which it imports, besides `tests`, whose conftest makes the package importable from a bare
            checkout, and `tests/support`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(TESTS), str(TESTS / "support"), *map(str, at), *sys.path])
    env = os.environ | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(rank), port, *map(str, arguments)],
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=seconds)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(said)[-6000:]
