"""When those in a queue start and end."""

from __future__ import annotations

import pytest

from workbench.analysis.queue_times import QueueTimes

CPU = frozenset({"cpu"})


@pytest.mark.parametrize(
    ("queue", "starts", "end"),
    [
        ([("a", CPU, 5.0), ("b", CPU, 7.0), ("c", CPU, 1.0)], [0.0, 5.0, 12.0], 13.0),
        ([("a", CPU, 5.0), ("b", CPU, None), ("c", CPU, 1.0)], [0.0, 5.0, None], None),
        (
            [("a", frozenset({"cuda:0"}), 5.0), ("b", frozenset({"cuda:1"}), 9.0), ("c", frozenset({"cuda:0"}), 1.0)],
            [0.0, 0.0, 5.0],
            9.0,
        ),
        (
            [("a", frozenset({"cuda:0"}), 5.0), ("b", frozenset({"cuda:1"}), 9.0), ("c", frozenset({"cuda:0", "cuda:1"}), 1.0)],
            [0.0, 0.0, 9.0],
            10.0,
        ),
    ],
)
def test_an_entry_starts_when_all_of_its_devices_are_free(
    queue: list[tuple[str, frozenset[str], float | None]], starts: list[float | None], end: float | None
) -> None:
    times = QueueTimes.of(queue)
    assert [times.starts_in_s[name] for name, _, _ in queue] == starts
    assert times.end_in_s(name for name, _, _ in queue) == end
