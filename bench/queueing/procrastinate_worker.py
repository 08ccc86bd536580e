"""procrastinate's worker: one event loop with as many jobs at once as the others have."""

import asyncio
import threading

from bench.queueing.answers import CALLERS, serve
from bench.queueing.counting import Statements
from bench.queueing.procrastinate_app import app


async def work() -> None:
    """Until the bench ends."""
    async with app.open_async():
        await app.run_worker_async(
            queues=["bench"],
            concurrency=CALLERS,
            install_signal_handlers=False,
        )


if __name__ == "__main__":
    counted = Statements()
    threading.Thread(target=serve, args=(lambda _: {"statements": counted.count},), daemon=True).start()
    asyncio.run(work())
