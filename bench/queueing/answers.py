"""The language between bench/queue.py and a process of a contestant: a line of JSON in, a line of JSON out.

Needs nothing but Python, since it runs in the peers' environment too.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

PAYLOAD: dict[str, Any] = {
    "prompts": [[1, 2, 3]],
    "n": 1,
    "sampling": {"max_tokens": 1, "seed": 7, "temperature": 1.0, "top_p": 1.0},
}
"""What every job carries: the shortest generation."""
CALLERS = 64
"""Who submit at the same time, and the most jobs that a worker has at once."""


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer each line until the bench ends; the first thing that is said is that all is ready."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an answer
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
