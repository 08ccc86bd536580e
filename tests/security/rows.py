"""Which tests show each row of the security matrix: docs/security.md says what we do."""

ROWS: dict[int, tuple[str, ...]] = {
    1: (
        "tests/security/test_keys.py::test_a_stolen_database_and_a_stolen_redis_hold_no_key",
        "tests/jobs/test_keys.py::test_a_dump_of_the_database_holds_no_key",
        "tests/web/test_keys.py::test_a_new_key_is_printed_alone_and_once",
    ),
    2: (
        "tests/security/test_keys.py::"
        "test_the_row_is_found_by_the_public_part_and_the_rest_is_compared_in_constant_time",
        "tests/security/test_keys.py::test_every_key_that_does_not_work_is_answered_with_the_same_words",
        "tests/jobs/test_keys.py::test_a_wrong_key_opens_nothing",
    ),
    3: (
        "tests/web/test_foreign.py::test_somebody_else_s_is_not_there_on_any_route",
        "tests/web/test_foreign.py::test_somebody_else_s_cannot_be_named_in_a_body",
        "tests/web/test_foreign.py::test_no_list_goes_on_after_what_is_somebody_else_s",
        "tests/web/test_foreign.py::test_no_list_of_models_shows_somebody_else_s",
        "tests/security/test_strangers.py::test_no_way_of_reading_shows_what_is_somebody_else_s",
        "tests/security/test_strangers.py::test_a_list_of_one_s_own_does_not_go_on_after_somebody_else_s",
        "tests/security/test_strangers.py::"
        "test_lines_of_a_batch_reach_nothing_of_somebody_else_s_and_assign_nothing",
        "tests/security/test_strangers.py::"
        "test_a_chain_in_a_batch_does_not_begin_with_somebody_else_s_response",
        "tests/security/test_strangers.py::test_a_repeated_create_is_never_answered_with_somebody_else_s",
    ),
    4: (
        "tests/security/test_assignments.py::test_no_route_lets_a_column_be_written",
        "tests/security/test_assignments.py::test_nor_inside_of_what_a_body_holds",
        "tests/security/test_assignments.py::test_nor_by_the_query_nor_by_a_form",
        "tests/security/test_strangers.py::"
        "test_lines_of_a_batch_reach_nothing_of_somebody_else_s_and_assign_nothing",
        "tests/web/test_schemathesis.py::test_what_is_not_as_documented_is_refused_as_documented",
    ),
    5: (
        "tests/web/test_access.py::test_every_route_needs_a_scope_that_was_decided_for_it",
        "tests/web/test_access.py::test_generating_fine_tuning_and_administration_are_apart",
        "tests/web/test_usage.py::test_admin_sees_everybody_with_names",
        "tests/security/test_keys.py::test_nothing_on_the_public_port_administers",
    ),
    6: (
        "tests/security/test_keys.py::test_a_revoked_key_works_for_nobody_after_five_seconds_of_load",
        "tests/web/test_access.py::test_a_revoked_key_stops_within_five_seconds",
        "tests/jobs/test_keys.py::test_a_revoked_key_opens_nothing_and_its_sisters_still_do",
    ),
    7: (
        "tests/web/test_limits.py::"
        "test_requests_beyond_the_limit_are_refused_and_every_answer_says_how_the_key_stands",
        "tests/web/test_limits.py::test_while_redis_is_away_each_process_counts_by_itself_and_nobody_waits",
        "tests/web/test_limits.py::test_a_redis_that_does_not_answer_costs_half_a_second_once",
        "tests/web/test_limits.py::test_a_key_has_only_so_many_jobs",
    ),
    8: (
        "tests/security/test_flood.py::test_a_flood_of_one_owner_delays_another_s_first_job_by_a_few",
        "tests/jobs/test_fairness.py::test_the_first_job_of_another_owner_does_not_wait_for_ten_thousand",
        "tests/jobs/test_fairness.py::test_eight_owners_with_skewed_loads_get_the_same_tokens",
        "tests/jobs/test_fairness.py::test_priority_orders_the_jobs_of_one_owner_and_nobody_elses",
    ),
    9: (
        "tests/security/test_bodies.py::test_a_body_without_an_end_is_cut_off",
        "tests/security/test_bodies.py::test_a_length_or_a_coding_that_is_none_is_refused",
        "tests/security/test_bodies.py::test_a_length_that_lies_makes_no_job_and_no_second_request",
        "tests/web/test_bad_input.py::test_a_body_that_is_no_request_is_refused",
        "tests/web/test_file_streaming.py::test_an_upload_that_is_too_large_or_breaks_off_leaves_nothing",
        "tests/web/test_files.py::test_what_is_no_form_is_refused",
    ),
    10: (
        "tests/jobs/test_lines.py::test_a_bad_line_is_named_and_the_others_are_read",
        "tests/jobs/test_lines.py::test_json_that_is_ambiguous_or_cannot_be_kept_is_refused_by_its_field",
        "tests/jobs/test_lines.py::test_a_line_of_a_gigabyte_costs_no_memory",
        "tests/jobs/test_lines.py::test_ten_million_lines_cost_no_memory",
        "tests/web/test_file_validation.py::test_validation_costs_little_memory_whatever_the_file_holds",
        "tests/web/test_file_validation.py::test_a_line_that_is_no_request_is_named",
        "tests/web/test_file_validation.py::test_a_batch_has_its_limits",
        "tests/web/test_file_streaming.py::test_a_large_file_passes_through_little_memory",
    ),
    11: (
        "tests/security/test_bodies.py::test_no_route_unfolds_a_body",
        "tests/security/test_bodies.py::test_a_length_or_a_coding_that_is_none_is_refused",
        "tests/web/test_files.py::test_a_compressed_form_is_refused",
    ),
    14: (
        "tests/security/test_paths.py::test_no_route_leads_to_a_file_of_the_host",
        "tests/security/test_paths.py::test_nor_by_a_url_that_no_client_library_would_send",
        "tests/security/test_paths.py::test_a_model_s_name_is_looked_up_and_never_opened",
        "tests/security/test_paths.py::test_a_suffix_cannot_become_a_path",
        "tests/security/test_paths.py::test_files_of_a_model_stay_in_its_folder",
        "tests/security/test_paths.py::test_an_artifact_has_a_hash_for_a_name_or_is_none",
        "tests/security/test_paths.py::test_an_export_takes_the_files_of_a_model_and_no_other",
        "tests/security/test_paths.py::test_a_shard_elsewhere_is_not_taken_into_an_export",
        "tests/web/test_files.py::test_a_filename_is_text_and_nothing_else",
        "tests/worker/test_loading.py::test_a_shard_outside_the_folder_is_not_read",
    ),
    15: (
        "tests/security/test_models.py::test_a_pickle_is_not_opened_by_anybody",
        "tests/security/test_models.py::test_a_pickle_under_the_name_of_safetensors_is_not_opened_either",
        "tests/security/test_models.py::test_an_adapter_s_pickle_is_not_opened",
        "tests/security/test_models.py::test_a_head_of_weights_that_lies_is_refused_and_costs_no_memory",
        "tests/worker/test_loading.py::test_weights_that_do_not_fit_are_refused",
        "tests/worker/test_loading.py::test_a_hub_model_is_fetched_without_code_or_pickles",
    ),
    16: (
        "tests/security/test_models.py::test_a_configuration_runs_nothing_and_calls_nobody",
        "tests/security/test_models.py::test_a_file_that_is_a_bomb_of_json_is_one_sentence",
        "tests/security/test_models.py::test_the_trainer_names_what_it_does_not_run",
        "tests/worker/test_loading.py::test_a_configuration_that_does_not_fit_is_refused",
        "tests/security/test_checkpoints.py::test_no_release_with_a_known_way_out_is_installed",
    ),
    17: (
        "tests/security/test_checkpoints.py::test_a_forged_checkpoint_runs_no_code",
        "tests/security/test_checkpoints.py::test_nothing_of_ours_unpickles_or_runs_text",
        "tests/security/test_checkpoints.py::test_no_release_with_a_known_way_out_is_installed",
        "tests/trainer/test_checkpoint.py::test_a_damaged_checkpoint_falls_back_one",
        "tests/trainer/test_attempt.py::test_a_damaged_checkpoint_falls_back_to_the_one_before",
    ),
    18: (
        "tests/security/test_broker.py::test_messages_that_are_no_json_run_nothing_and_the_clerk_goes_on",
        "tests/jobs/test_queue.py::test_celery_speaks_json_only_keeps_no_results_and_never_waits_for_ever",
        "tests/ops/test_compose.py::test_only_nginx_is_published_and_only_to_this_machine_unless_asked",
        "tests/ops/test_passwords.py::test_application_and_servers_agree",
    ),
    22: (
        "tests/security/test_bombs.py::test_whatever_multiplies_work_has_a_most",
        "tests/security/test_bombs.py::test_no_request_brings_a_pattern_a_grammar_or_a_template",
        "tests/security/test_bombs.py::test_no_text_is_dear_to_cut_into_tokens",
        "tests/security/test_bombs.py::test_a_chat_template_does_not_leave_its_sandbox",
        "tests/web/test_bad_input.py::test_a_bad_request_is_told_what_to_send",
    ),
    23: (
        "tests/end_to_end/test_secrets.py::test_no_log_of_any_process_holds_what_clients_sent",
        "tests/security/test_secrets.py::test_no_line_of_a_log_holds_a_key_a_password_or_a_value",
        "tests/web/test_gunicorn.py::test_it_serves_stops_in_order_and_keeps_secrets",
        "tests/jobs/test_logs.py::"
        "test_every_line_is_one_json_object_with_its_facts_beside_a_constant_sentence",
        "tests/ops/test_nginx.py::test_the_log_holds_no_header_and_no_query",
    ),
    24: (
        "tests/end_to_end/page/test_generating.py::test_generated_markup_stays_text",
        "tests/end_to_end/page/test_generating.py::"
        "test_the_browser_itself_refuses_markup_and_foreign_scripts",
        "tests/security/test_browser.py::test_no_answer_can_be_framed_sniffed_or_run",
        "tests/security/test_browser.py::test_markup_in_a_result_a_name_or_an_error_is_never_html",
    ),
    25: (
        "tests/security/test_browser.py::"
        "test_another_site_s_form_does_nothing_whatever_the_browser_remembers",
        "tests/security/test_browser.py::test_there_are_no_cookies_and_no_other_site_may_read",
        "tests/web/test_access.py::test_only_a_bearer_key_counts",
    ),
    26: (
        "tests/security/test_errors.py::test_no_answer_of_any_route_shows_what_is_inside",
        "tests/security/test_errors.py::test_a_crash_says_no_more_than_that_and_its_log_has_the_rest",
        "tests/security/test_errors.py::test_an_error_of_the_database_is_not_told",
        "tests/web/test_gunicorn.py::test_what_is_no_request_gets_the_error_object_too",
        "tests/web/test_schemathesis.py::test_a_call_of_something_that_is_there_is_answered_as_documented",
    ),
    28: (
        "tests/security/test_secrets.py::test_a_password_that_everybody_tries_first_is_refused",
        "tests/security/test_secrets.py::test_no_process_starts_with_such_a_password",
        "tests/ops/test_passwords.py::test_two_stacks_have_different_passwords",
        "tests/ops/test_compose.py::test_no_password_stands_in_an_environment",
        "tests/jobs/test_settings.py::test_a_password_is_not_shown_when_settings_are_wrong",
    ),
}
"""By the row's number; the others of the matrix are not of this kind of test (see docs/security.md)."""
