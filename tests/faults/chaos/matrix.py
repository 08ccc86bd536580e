"""The rows of the fault matrix that can happen to a running stack, and the deaths that have none."""

from tests.faults.chaos import process_faults as processes
from tests.faults.chaos import server_faults as servers
from tests.faults.chaos.ground import Row, killing

ROWS = (
    Row("1", "Redis down for seconds", servers.redis_down),
    Row("2", "Redis stopped (SIGSTOP)", servers.redis_stopped),
    Row("3", "FLUSHALL in flight", servers.flushall),
    Row("4", "Redis SIGKILL", killing("redis")),
    Row("5", "Redis half-open", servers.redis_half_open),
    Row("5", "Redis black hole", servers.redis_black_hole),
    Row("5", "CLIENT KILL", servers.client_kill),
    Row("6", "Redis full (maxmemory 1)", servers.redis_full),
    Row("7", "malformed broker messages", servers.malformed),
    Row("8", "doorbells x1000", servers.duplicates),
    Row("9, 10", "PostgreSQL down for seconds", servers.database_down),
    Row("10", "PostgreSQL SIGKILL", killing("postgres")),
    Row("10", "PostgreSQL black hole", servers.database_black_hole),
    Row("11", "COMMIT's reply lost", servers.commit_reply_lost),
    Row("13", "worker dies before its claim commits", processes.at_failpoint("before_claim_commit")),
    Row("14", "worker dies after its claim", processes.at_failpoint("after_claim")),
    Row("15", "worker SIGKILL", processes.kill_worker),
    Row("17", "worker dies before its results commit", processes.at_failpoint("before_settle_commit")),
    Row("17", "worker dies after its results commit", processes.at_failpoint("after_settle")),
    Row("18", "worker stopped past its lease, goes on", processes.zombie),
    Row("20", "poison job", processes.poison),
    Row("22", "worker SIGTERM", processes.terminate("worker")),
    Row("23", "web SIGKILL", processes.kill_web),
    Row("23", "web SIGTERM", processes.terminate("web")),
    Row("23", "web SIGHUP", processes.hang_up),
    Row("24", "replies to creates lost", processes.replies_lost),
    Row("25", "30 races of two cancels", processes.races),
    Row("30", "a second sweeper", processes.twin("sweeper")),
    Row("30", "a second clerk", processes.twin("clerk")),
    Row("-", "clerk SIGKILL", killing("clerk")),
    Row("-", "sweeper SIGKILL", killing("sweeper")),
)
"""Each is drawn as often as another. Rows 16, 19, 21, 26 to 29 and 31 have tests of their own."""

TRAINER_ROWS = (Row("28", "trainer SIGKILL", processes.kill_trainer),) * 8
"""As often as all others that take long: a death of the trainer is about hours of work."""
