"""A store for the tests of a file, and a run in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import workbench as wb
from tests.helpers.specs import tiny
from workbench.api import Run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="module")
def run(store: None) -> Run:
    return wb.run(tiny(data=2))
