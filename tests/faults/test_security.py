"""SECURITY.md promises nothing that no test holds: the table of promises and their tests."""

from __future__ import annotations

import ast
import re

import pytest

from .corpus import all_cases
from .fuzz.target import ROOT

# A test is `file::function` below tests/, or a case of the corpus.
HELD_BY: dict[str, tuple[str, ...]] = {
    "No code from a file runs": (
        "faults/test_checkpoints.py::test_pickle__runs_no_code",
        "faults/test_checkpoints.py::test_pickle__gadgets_work",
        "test_house.py::test_forbidden_calls",
        "torch_files/global_builtins exec",
        "torch_files/global_torch.storage _load_from_bytes",
        "torch_archives/second_directory",
        "faults/test_fuzz.py::test_targets__find_nothing",
        "faults/test_fuzz.py::test_judge__finds",
    ),
    "Declared errors": (
        "faults/test_fuzz.py::test_targets__find_nothing",
        "faults/test_soak.py::test_embed__accounts_for_every_file",
        "test_cli.py::test_errors__no_traceback",
        "commands/test_odd_input.py::test_unreadable__rows_and_exit_3",
    ),
    "Bounded memory and time": (
        "faults/test_corpus.py::test_attack",
        "torch_files/shared_tuples",
        "torch_files/doubling",
        "safetensors/200k_entries",
        "models/config_deep",
        "models/config_many_digits",
        "net/info_of_400_mb",
        "net/drip_headers_address",
        "net/tar_chained_pax",
        "faults/test_fuzz.py::test_targets__find_nothing",
        "data/test_decode.py::test_bomb__refused_before_pixels",
        "net/test_download.py::test_an_endless_body_ends",
        "net/test_download.py::test_a_server_that_drips_is_stopped",
    ),
    "Network only when named": (
        "test_house.py::test_import_opens_no_socket",
        "net/test_download.py::test_offline_mode_asks_nobody",
        "data/test_decode.py::test_url__is_not_fetched",
        "faults/test_fuzz.py::test_targets__find_nothing",
    ),
    "Verified downloads": (
        "weights/test_hub.py::test_fetch__wrong_bytes_twice_is_an_integrity_error_and_leaves_nothing",
        "weights/test_hub.py::test_fetch__corruption_in_the_cache_is_found",
        "weights/test_hub.py::test_what_was_fetched_first_is_what_is_accepted_later",
        "weights/test_hub.py::test_verify_reads_every_byte_of_the_cache",
        "net/test_download.py::test_a_bad_copy_in_the_cache_is_found_out",
        "torch_archives/verify_says_flipped",
    ),
    "Weights are copied": (
        "torch_archives/torch_overwritten",
        "torch_archives/torch_cut",
        "torch_archives/safetensors_overwritten",
        "torch_archives/safetensors_cut",
    ),
    "Files only where you said": (
        "net/etag_up",
        "net/x-repo-commit_up",
        "net/own_files_behind_links",
        "net/listing_up",
        "safetensors/index_above",
        "faults/test_fuzz.py::test_targets__find_nothing",
        "net/test_download.py::test_odd_names_are_fetched_and_stay_inside_the_cache",
        "commands/test_odd_input.py::test_embed__writes_exactly_the_name_given",
    ),
    "Whole or not at all": (
        "test_atomic.py::test_atomic_file__keeps_the_old_one_when_the_block_fails",
        "test_atomic.py::test_alone__the_second_is_refused_and_the_first_named",
        "test_atomic.py::test_planted__lock",
        "test_atomic.py::test_planted__partial_folder",
        "test_cli.py::test_embed__existing_output_is_kept",
        "faults/test_full_disk.py::test_save_and_convert",
        "faults/test_full_disk.py::test_results",
        "faults/test_soak.py::test_killed_writers__nothing_is_half",
        "faults/test_two_runs.py::test_save_and_convert__while_another_writes",
        "train/test_resume.py::test_twenty_kills_leave_no_trace",
    ),
    "No web page reaches a server on this machine": (
        "serve/test_hosts.py::test_other_names__are_refused",
        "serve/test_hosts.py::test_pages_of_elsewhere__are_refused",
        "serve/test_hosts.py::test_refusal__is_told_and_costs_nothing",
        "serve/test_hosts.py::test_form_of_another_page__is_refused_before_it_is_read",
    ),
    "No secrets in outputs": (
        "net/secrets",
        "net/test_download.py::test_secrets_in_a_query_stay_secret",
        "data/datasets/test_shards.py::test_a_permit_in_an_address_is_sent_and_never_said",
        "weights/test_hub.py::test_fetch__token_never_leaves_the_hub",
    ),
    "No steering of terminals": (
        "commands/test_odd_input.py::test_names__cannot_steer_a_terminal",
        "test_console.py::test_complain__cannot_steer_a_terminal",
    ),
}
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")


def functions(file: str) -> set[str]:
    """Names of the functions at the top of a test file."""
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_is_in_the_table():
    """A promise that is added without a test, or one that was taken back here only, would be words."""
    promised = TEXT.split("## What is promised")[1].split("\n## ")[0]
    assert re.findall(r"^- \*\*(.+?)\.\*\*", promised, re.MULTILINE) == list(HELD_BY)


@pytest.mark.parametrize("promise", HELD_BY)
def test_promises_are_held(promise):
    """A test that was renamed or removed holds nothing."""
    assert HELD_BY[promise], "nothing holds it"
    cases = all_cases()
    for test in HELD_BY[promise]:
        file, _, name = test.partition("::")
        assert name in functions(file) if name else test in cases, test
