"""The task of procrastinate."""

import os
from typing import Any

import procrastinate

_POOL = 32  # connections of one process; 4, 16 and 64 were no faster, on a busy machine

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(
        conninfo=os.environ["BENCH_DATABASE"], min_size=_POOL, max_size=_POOL
    )
)


@app.task(name="nothing", queue="bench")  # type: ignore[untyped-decorator]
async def nothing(payload: dict[str, Any]) -> dict[str, Any]:
    """Answer at once; procrastinate keeps no results, only that it succeeded."""
    return {"text": "", "prompt_tokens": len(payload["prompts"][0])}
