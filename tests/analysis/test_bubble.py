"""The bubble: what a schedule's order costs by itself, what uneven stages add, and the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from workbench.analysis.bubble import Worker, bubble_of, replay, worker_of
from workbench.plan.intervals import Interval, innermost
from workbench.strategies.pipeline.schedules.action_order import read

GPIPE = ["0F0,0F1,0F2,0F3,0B0,0B1,0B2,0B3", "1F0,1F1,1F2,1F3,1B0,1B1,1B2,1B3"]
ONE_F_ONE_B = ["0F0,0F1,0B0,0F2,0B1,0F3,0B2,0B3", "1F0,1B0,1F1,1B1,1F2,1B2,1F3,1B3"]


def workers_of(rows: list[str], forward: list[float], rest: float = 0.0) -> list[Worker]:
    """Workers of one stage each; a backward pass takes twice its forward pass."""
    made = []
    for stage, actions in enumerate(read(rows)):
        seconds = {(stage, "F"): forward[stage], (stage, "B"): 2 * forward[stage]}
        made.append(Worker(actions, seconds, {}, {}, 0.0, rest, step=0.0, idle=0.0))
    return made


@pytest.mark.parametrize("rows", [GPIPE, ONE_F_ONE_B], ids=["gpipe", "1f1b"])
@pytest.mark.parametrize("num_workers", [2, 3])
def test_the_ideal_of_equal_stages_is_the_textbooks(rows: list[str], num_workers: int) -> None:
    if num_workers == 3:  # a stage more behind: both schedules may run ahead by one more
        rows = [r.replace("1F", "2F").replace("1B", "2B") if i == 1 else r for i, r in enumerate(rows)]
        rows = [GPIPE[0], GPIPE[1], rows[1]]
    parts = bubble_of(workers_of(rows, [1.0] * num_workers))
    m, p = 4, num_workers
    assert parts["ideal step"] == pytest.approx(3 * (m + p - 1))
    assert parts["ideal"] / parts["ideal step"] == pytest.approx((p - 1) / (m + p - 1))
    assert parts["imbalance"] == pytest.approx(0)


def test_uneven_stages_make_imbalance_and_not_order() -> None:
    parts = bubble_of(workers_of(GPIPE, [1.0, 2.0]))
    # F0, then worker 1's four forward and four backward passes, then B0: 1 + 4·2 + 4·4 + 2 = 27 of which 18 on average busy.
    assert parts["ideal step"] == pytest.approx(27)
    assert parts["order"] == pytest.approx(5 * 4.5 - 18)
    assert parts["imbalance"] == pytest.approx(27 - 5 * 4.5)


def test_the_optimizer_is_time_that_is_not_idle() -> None:
    parts = bubble_of(workers_of(GPIPE, [1.0, 1.0], rest=5.0))
    assert parts["ideal step"] == pytest.approx(15 + 5)
    assert parts["ideal"] == pytest.approx(3)


def test_communication_delays_the_other_worker_and_the_parts_add_up() -> None:
    first, second = workers_of(GPIPE, [1.0, 1.0])
    slow = replace(second, blocked={second.actions[0]: 7.0})
    parts = bubble_of([replace(first, idle=12.0), replace(slow, idle=4.0)])
    # Seven seconds before 1F0 hold up worker 0's first backward pass as long: idle on one of two workers.
    assert parts["communication"] == pytest.approx(7 / 2)
    assert parts["rest"] == pytest.approx(8 - 3 - 3.5)
    assert parts["measured"] == pytest.approx(sum(parts[p] for p in ("order", "imbalance", "communication", "rest")))


def test_sending_while_the_worker_would_have_to_wait_anyway_delays_nobody() -> None:
    first, second = workers_of(GPIPE, [1.0, 1.0])
    slow = replace(first, sending={first.actions[4]: 1.5})  # before 0B0, which waits from 4 s on for 1B0, done at 7 s
    parts = bubble_of([slow, second])
    assert parts["communication"] == pytest.approx(-1.5 / 2), "it takes the place of idle time"


def test_an_order_that_waits_for_itself_is_refused() -> None:
    rows = ["0B0,0F0", "1F0,1B0"]
    with pytest.raises(ValueError, match="cannot go on before 0B0, 1F0"):
        replay(workers_of(rows, [1.0, 1.0]), 1)


def test_a_worker_is_read_from_its_timeline_with_waits_taken_out_of_what_waited() -> None:
    def row(kind: str, start: float, end: float, microbatch: int | None = None, name: str = "") -> dict[str, object]:
        place = {"stage": 0, "microbatch": microbatch, "name": name}
        return {"step": 7, "kind": kind, **place, "start_s": start, "end_s": end}

    timeline = [
        row("optimizer", 0, 1),
        row("forward", 1, 4, 0),
        row("communication", 2, 3),
        row("idle", 4, 6),
        row("communication", 6, 6.5, name="send"),
        row("communication", 6.5, 7, name="recv"),
        row("backward", 7, 9, 0),
        row("communication", 9, 10),
        row("optimizer", 10, 12),
    ]
    worker = worker_of(timeline, [{"step": 7, "duration_s": 13.0}])
    forward, backward = worker.actions
    assert (str(forward), str(backward)) == ("0F0", "0B0")
    assert worker.seconds == {(0, "F"): 2.0, (0, "B"): 2.0}
    assert worker.blocked == {forward: 1.0, backward: 0.5}
    assert worker.sending == {forward: 0.0, backward: 0.5}
    assert (worker.blocked_after, worker.idle, worker.rest) == (1.0, 2.0, 4.0)
    blocked = sum(worker.sending.values()) + sum(worker.blocked.values()) + worker.blocked_after
    total = worker.computing + blocked + worker.idle + worker.rest
    assert total == pytest.approx(worker.step)


def test_each_moment_belongs_to_what_began_last() -> None:
    whole, inside, after = Interval(0.0, 10.0, "a"), Interval(2.0, 5.0, "b"), Interval(12.0, 13.0, "c")
    assert [tuple(p) for p in innermost([after, inside, whole])] == [
        (0.0, 2.0, "a"), (2.0, 5.0, "b"), (5.0, 10.0, "a"), (12.0, 13.0, "c"),
    ]  # fmt: skip
