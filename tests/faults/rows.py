"""The fault matrix: of each row what is done, what must happen, and the tests that show it.

`python -m tests.faults.rows` prints the table of docs/promises.md.
"""

from dataclasses import dataclass

REDIS, DATABASE = "tests/faults/test_redis_faults.py", "tests/faults/test_database_faults.py"
DEATHS, WEB = "tests/faults/test_worker_deaths.py", "tests/faults/test_web_faults.py"
CLOCK, FLAT = "tests/faults/test_clock_faults.py", "tests/faults/test_flatness.py"


@dataclass(frozen=True)
class Row:
    """One fault."""

    done: str
    expected: str
    tests: tuple[str, ...]  # path::name


_NO_REDIS = f"{REDIS}::test_without_redis_creates_answer_within_a_second_and_every_job_runs_soon"

ROWS: dict[int, Row] = {
    1: Row(
        "Redis is killed, 100 creates",
        "p99 of a create below 1 s; every job runs, found by looking within 2 s",
        (_NO_REDIS, "tests/web/test_faults.py::test_without_redis_jobs_are_taken_at_once_and_run"),
    ),
    2: Row(
        "Redis is stopped (SIGSTOP), 100 creates",
        "as row 1",
        (_NO_REDIS, "tests/web/test_faults.py::test_a_frozen_redis_delays_nobody"),
    ),
    3: Row(
        "FLUSHALL ten times during 1,000 jobs",
        "none is lost, none runs twice",
        (f"{REDIS}::test_a_redis_that_is_emptied_again_and_again_loses_none_of_1000_jobs",),
    ),
    4: Row(
        "Redis is killed and started empty, 3 times (20 in make test-faults); a reply breaks off half-way",
        "none is lost; the worker hears bells again within 10 s",
        (
            f"{REDIS}::test_a_redis_that_is_killed_and_started_empty_finds_the_worker_back_within_10_seconds",
            f"{REDIS}::test_a_bell_whose_delivery_breaks_off_deafens_nobody",
        ),
    ),
    5: Row(
        "a proxy swallows what passes and ends no connection (make test-faults)",
        "none is lost; the worker hears bells again within 30 s",
        (f"{REDIS}::test_a_worker_whose_connection_hangs_half_open_is_back_within_30_seconds",),
    ),
    6: Row("Redis is full (maxmemory 1)", "as row 1", (_NO_REDIS,)),
    7: Row(
        "messages that are none in the doorbell's list",
        "passed over, or the worker ends once and hands its jobs back uncharged",
        (
            f"{REDIS}::test_what_is_no_message_is_passed_over",
            f"{REDIS}::test_a_message_that_ends_the_worker_ends_it_once_and_its_jobs_are_not_charged",
            "tests/faults/test_bells.py::test_however_many_messages_would_end_a_worker_only_the_first_does",
        ),
    ),
    8: Row(
        "1,000 doorbells for the same work",
        "nothing runs twice",
        (f"{REDIS}::test_a_thousand_doorbells_for_the_same_work_run_nothing_twice",),
    ),
    9: Row(
        "PostgreSQL is killed, before creates and among them",
        "503 with Retry-After and no job; every job that was told of is there, and no other",
        (
            f"{DATABASE}::test_while_the_database_is_down_creates_are_refused_and_none_leaves_a_job",
            f"{DATABASE}::test_a_database_that_dies_under_load_has_every_job_that_was_told_of_and_no_other",
            "tests/web/test_faults.py::test_without_a_database_nothing_is_accepted",
        ),
    ),
    10: Row(
        "PostgreSQL is away during generations, for less and for more than a lease; for all, for one worker",
        "results are kept while the lease is, else discarded and made again",
        (
            f"{DATABASE}::"
            "test_results_wait_for_a_database_that_is_away_and_are_not_made_again_while_their_lease_holds",
            f"{DATABASE}::"
            "test_results_of_a_worker_that_is_cut_off_for_longer_than_its_lease_are_discarded_and_made_again",
        ),
    ),
    11: Row(
        "a proxy cuts the connection when COMMIT was sent: of a create, a claim, a result",
        "a repeated create finds its job; a result is written once; a claim is rescued after its lease",
        (
            f"{DATABASE}::test_a_create_whose_commit_was_not_answered_is_one_job_when_it_is_sent_again",
            f"{DATABASE}::test_a_result_whose_commit_was_not_answered_is_written_once",
            f"{DATABASE}::test_jobs_of_a_claim_whose_commit_was_not_answered_are_rescued_after_a_lease",
        ),
    ),
    13: Row(
        "SIGKILL of a worker before its claim is committed",
        "nothing has changed",
        (f"{DEATHS}::test_a_worker_that_dies_before_its_claim_is_committed_has_changed_nothing",),
    ),
    14: Row(
        "... after the claim, before the first token",
        "run again within lease + sweep + look",
        (f"{DEATHS}::test_jobs_of_a_worker_that_dies_before_their_first_token_run_again_after_a_lease",),
    ),
    15: Row(
        "... in the middle of a batch, once and again",
        "all run again; those whose workers died twice run alone",
        (
            f"{DEATHS}::test_all_jobs_of_a_worker_that_dies_in_the_middle_of_a_batch_run_again",
            f"{DEATHS}::test_jobs_whose_workers_died_twice_run_alone",
        ),
    ),
    16: Row(
        "SIGKILL of clerk, web and trainer after an artifact, before its row",
        "made again under the same name; an orphan is swept",
        (
            f"{WEB}::test_a_clerk_that_dies_between_artifact_and_row_writes_the_same_file_again",
            f"{WEB}::test_an_upload_whose_web_dies_between_artifact_and_row_leaves_nothing",
            "tests/trainer/test_app.py::test_a_trainer_that_is_killed_around_a_row_loses_no_checkpoint",
        ),
    ),
    17: Row(
        "SIGKILL of a worker around the commit of a result, of web before its bell",
        "the result is written once and its webhook sent; the job runs, its repetition is the same job",
        (
            f"{DEATHS}::test_a_result_is_written_once_and_told_to_whoever_wants_to_know",
            f"{WEB}::test_a_web_that_dies_before_it_rings_has_accepted_the_job_and_its_retry_finds_it",
        ),
    ),
    18: Row(
        "SIGSTOP of a worker for longer than its lease, in a step and in the middle of a commit; SIGCONT",
        "the new attempt wins, the old one writes nothing and holds no locks",
        (
            f"{DEATHS}::"
            "test_a_worker_that_was_stopped_for_longer_than_its_lease_writes_nothing_when_it_goes_on",
            f"{DEATHS}::test_a_worker_that_stands_still_in_the_middle_of_its_commit_holds_nobody_up",
            "tests/jobs/test_database.py::test_locks_of_who_stands_still_within_a_transaction_are_let_go",
        ),
    ),
    19: Row(
        "a step hangs; the heartbeat's thread dies",
        "its jobs run elsewhere, the process ends itself",
        (
            f"{DEATHS}::test_a_worker_whose_step_hangs_loses_its_jobs_once_and_ends_itself",
            f"{DEATHS}::test_a_worker_whose_heartbeat_dies_ends_itself",
        ),
    ),
    20: Row(
        "a prompt at which the process exits, among others",
        "it fails `poisoned` at its third worker's death, its neighbours succeed",
        (f"{DEATHS}::test_a_job_that_kills_its_worker_three_times_fails_alone",),
    ),
    21: Row(
        "the device has no room for the batch",
        "the batch becomes smaller, a job that never fits fails alone, the process lives",
        (
            "tests/worker/test_exhaustion.py::test_jobs_do_not_notice",
            "tests/worker/test_exhaustion.py::"
            "test_a_job_that_never_fits_fails_in_the_end_and_the_worker_lives",
        ),
    ),
    22: Row(
        "SIGTERM of a worker under load",
        "it claims nothing more, finishes what fits, hands back the rest uncharged, in time",
        (
            f"{DEATHS}::"
            "test_a_worker_that_is_told_to_end_finishes_what_fits_and_hands_back_the_rest_uncharged",
        ),
    ),
    23: Row(
        "SIGTERM and SIGHUP of web among 200 creates",
        "connections break, no answer is an error, no job is there twice",
        (f"{WEB}::test_a_web_that_restarts_under_load_refuses_connections_and_makes_no_job_twice",),
    ),
    24: Row(
        "a proxy cuts the answer to a create",
        "the client's repetition is the same job",
        (
            f"{WEB}::test_a_create_whose_reply_was_cut_is_the_same_job_when_the_client_asks_again",
            "tests/web/test_idempotency.py::test_creates_that_are_cut_and_sent_again_are_one_job_each",
        ),
    ),
    25: Row(
        "200 cancels (1,000 in make test-faults) against claims, steps and results",
        "one end each; a running job is over within 250 ms and a step, without Redis a second and a step",
        (
            f"{WEB}::test_a_cancel_that_races_with_every_step_of_a_job_leaves_one_end",
            f"{WEB}::test_a_cancelled_job_that_runs_is_over_within_a_quarter_of_a_second_and_a_step",
            "tests/worker/test_cancel.py::"
            "test_a_cancel_whose_hint_is_lost_frees_its_slot_within_a_second_and_a_step",
        ),
    ),
    26: Row(
        "files that cannot grow: uploads, a batch's output, logs, checkpoints",
        "503 `storage_failed`, no torn file; the batch is completed when there is room; the rest goes on",
        (
            f"{WEB}::test_an_upload_to_a_full_disk_is_refused_and_leaves_no_torn_file",
            f"{WEB}::test_a_batch_whose_output_finds_no_room_is_completed_when_there_is_some",
            f"{WEB}::test_a_full_disk_under_the_logs_stops_nobody",
            "tests/trainer/test_failures.py::test_a_disk_that_is_too_small_is_seen_before_the_start",
        ),
    ),
    27: Row(
        "a checkpoint is cut short, changed by a byte, without its manifest",
        "the one before is taken",
        (
            "tests/trainer/test_checkpoint.py::test_a_damaged_checkpoint_falls_back_one",
            "tests/trainer/test_attempt.py::test_a_damaged_checkpoint_falls_back_to_the_one_before",
        ),
    ),
    28: Row(
        "SIGKILL of a training in each phase, at 20 random moments (make test-training)",
        "the weights are those of an undisturbed run, bit by bit on a CPU",
        (
            "tests/trainer/test_kills.py::"
            "test_killed_at_any_moment_the_weights_are_those_of_an_undisturbed_run",
            "tests/trainer/test_random_kills.py::"
            "test_after_kills_at_random_moments_the_weights_are_those_of_an_undisturbed_run",
        ),
    ),
    29: Row(
        "the clock of worker and sweeper jumps by an hour, either way",
        "no job is taken from anybody",
        (f"{CLOCK}::test_a_clock_that_jumps_by_an_hour_on_a_worker_takes_no_job_from_it",),
    ),
    30: Row(
        "two sweepers, two senders of webhooks",
        "a death counts once, a delivery is taken once",
        (
            "tests/jobs/test_sweeper.py::test_two_sweepers_at_once_count_a_death_once",
            "tests/web/test_messenger.py::test_two_messengers_never_take_the_same",
        ),
    ),
    31: Row(
        "webhook targets that fail, hang, drip, flood, redirect, are gone",
        "tried by the schedule, held to a timeout, memory flat; others and jobs go on",
        (
            "tests/web/test_delivery.py::test_no_target_holds_us_longer_than_the_timeout",
            "tests/web/test_delivery.py::test_an_endless_answer_is_not_read",
            "tests/web/test_delivery.py::test_a_redirect_is_an_answer_and_not_followed",
            "tests/web/test_webhooks.py::test_a_target_that_fails_is_tried_again_by_the_schedule_and_then_never",
            "tests/web/test_webhooks.py::test_a_target_that_is_gone_for_good_is_left_alone",
            "tests/web/test_webhooks.py::test_a_hanging_target_holds_up_only_itself",
        ),
    ),
    32: Row(
        "rounds of load with a fault each; hours of it by `make soak`",
        "none is lost; memory and open files do not grow",
        (f"{FLAT}::test_rounds_of_faults_leave_memory_and_open_files_as_they_were",),
    ),
}
"""Row 12 speaks of SQLite, which is nowhere."""


def table() -> list[str]:
    """The rows as lines of Markdown."""
    lines = ["| row | done | what must happen | shown by (under `tests/`) |", "|---|---|---|---|"]
    for number, row in ROWS.items():
        shown = ", ".join(f"`{each.removeprefix('tests/')}`" for each in row.tests)
        lines.append(f"| {number} | {row.done} | {row.expected} | {shown} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
