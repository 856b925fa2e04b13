"""Every private name of torch that the workbench uses behaves as the workbench relies on."""

from __future__ import annotations

import re

import pytest
import torch

from tests.torch_private import checks_between_processes, checks_in_one_process  # noqa: F401 - they register the checks
from tests.torch_private.entries import CHECKS, ENTRIES, FIELDS


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_behaves_as_relied_upon(name: str) -> None:
    entry = ENTRIES[name]
    try:
        CHECKS[name](entry.load())
    except Exception as error:  # noqa: BLE001 - whatever it is, the message names the entry
        pytest.fail(
            f"torch {torch.__version__} does not have {', '.join(entry.private_names)} as workbench.torch_private.{name} expects:"
            f" {type(error).__name__}: {error}\nused by {', '.join(entry.users())}\ncompare {entry.fields.get('Upstream')}"
        )


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_is_documented_and_used(name: str) -> None:
    entry = ENTRIES[name]
    assert tuple(entry.fields) == FIELDS
    assert all(private.startswith("torch.") for private in entry.private_names)
    assert re.fullmatch(r"https://github\.com/pytorch/pytorch/(blob/v[\d.]+/\S+|issues/\d+|pull/\d+)", entry.fields["Upstream"])
    assert re.fullmatch(r"torch \d+\.\d+(, \d+\.\d+)*", entry.fields["Checked"])
    assert entry.users(), "nothing uses it: remove it"


def test_every_check_has_an_entry() -> None:
    assert set(CHECKS) == set(ENTRIES)
