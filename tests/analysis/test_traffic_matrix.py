"""The traffic matrix and the achieved bandwidth, from rows of communication."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workbench.analysis.communication import achieved_bandwidth
from workbench.analysis.traffic_matrix import EVENLY, square, traffic_matrix
from workbench.charts.communication import traffic_matrix_chart

NUM_STEPS = 2


def collective(operation: str, ranks: list[int], payload: int, ring: int, root: int | None = None) -> list[dict[str, Any]]:
    """The rows of one operation on each of ``NUM_STEPS`` steps: the last enters at 1 s, the last to see it done does at 3 s."""
    return [
        {"rank": rank, "step": step, "operation": operation, "axis": "data", "group": "g", "sequence": step, "peer": root}
        | {
            "payload_bytes": payload,
            "ring_bytes": ring,
            "start_s": float(rank == ranks[-1]),
            "completed_s": 3.0 - (rank == ranks[0]),
        }
        for step in range(NUM_STEPS)
        for rank in ranks
    ]


def test_a_rings_bytes_go_to_the_next_rank_and_every_worker_sends_its_ring_bytes() -> None:
    sent = square(traffic_matrix(pd.DataFrame(collective("all_reduce", [0, 2, 3], 120, 160))), num_workers=4)
    assert {(a, b): sent.loc[a, b] for a in range(4) for b in range(4) if sent.loc[a, b]} == {
        (0, 2): 160,
        (2, 3): 160,
        (3, 0): 160,
    }


def test_a_broadcast_passes_along_a_chain_from_its_root() -> None:
    sent = traffic_matrix(pd.DataFrame(collective("broadcast", [0, 1, 2], 120, 80, root=1)))
    assert list(zip(sent["from"], sent["to"], sent["bytes"], strict=True)) == [(1, 2, 120), (2, 0, 120)]


def test_an_all_to_all_goes_evenly_to_all_others_and_says_so() -> None:
    sent = traffic_matrix(pd.DataFrame(collective("all_to_all", [0, 1, 2], 120, 80)))
    assert len(sent) == 6
    assert set(sent["bytes"]) == {40}
    assert set(sent["attribution"]) == {EVENLY}


def sends() -> pd.DataFrame:
    """Worker 0 sends twice a step to worker 1, which stands waiting only for the first."""
    common = {"operation": "send", "axis": "pipeline", "group": "g", "payload_bytes": 1000}
    rows = []
    for step in range(NUM_STEPS):
        for number in range(2):
            pair = {"step": step, "sequence": 2 * step + number}
            rows.append(common | pair | {"rank": 0, "peer": 1, "ring_bytes": 1000, "start_s": 1.0, "completed_s": None})
            done = {"ring_bytes": 0, "start_s": 0.0, "completed_s": 1.5 if number == 0 else None}
            rows.append(common | pair | done | {"operation": "recv", "rank": 1, "peer": 0})
    return pd.DataFrame(rows)


def test_sends_are_as_they_are_sent() -> None:
    sent = traffic_matrix(sends())
    assert sent[["from", "to", "bytes"]].values.tolist() == [[0, 1, 2000.0]]


def test_an_operation_takes_from_its_last_participants_entry_to_the_last_ones_completion() -> None:
    (row,) = achieved_bandwidth(pd.DataFrame(collective("all_reduce", [0, 1], 1000, 1000))).to_dict("records")
    assert row["seconds"] == 2.0
    assert row["ring_bytes_per_s"] == 500.0
    assert (row["num_operations"], row["group_size"], row["size_from_bytes"]) == (NUM_STEPS, 2, 512)


def test_of_sends_only_those_count_that_the_receiver_saw_arrive() -> None:
    (row,) = achieved_bandwidth(sends()).to_dict("records")
    assert (row["operation"], row["num_operations"], row["seconds"], row["ring_bytes_per_s"]) == ("send", NUM_STEPS, 0.5, 2000.0)


@pytest.mark.parametrize("analyse", [traffic_matrix, achieved_bandwidth])
def test_without_communication_the_frames_are_empty(analyse: Any) -> None:
    assert analyse(sends().iloc[:0]).empty


def test_the_heat_map_has_a_cell_for_each_pair_that_talks() -> None:
    frame = traffic_matrix(pd.concat([sends(), pd.DataFrame(collective("all_reduce", [0, 1], 1000, 1000))]))
    drawn = traffic_matrix_chart(frame, num_workers=2).to_dict()
    (cells,) = drawn["datasets"].values()
    assert {(cell["axis"], cell["from"], cell["to"]) for cell in cells} == {("pipeline", 0, 1), ("data", 0, 1), ("data", 1, 0)}


@pytest.mark.clock
def test_a_million_rows_are_summed_up_in_five_seconds() -> None:
    one = pd.DataFrame(collective("all_reduce", list(range(8)), 1000, 1750))
    many = pd.concat([one] * (1_000_000 // len(one)), ignore_index=True)
    many["sequence"] = np.arange(len(many)) // 8
    start = time.perf_counter()
    assert traffic_matrix(many)["bytes"].sum() == many["ring_bytes"].sum() / NUM_STEPS
    assert achieved_bandwidth(many)["num_operations"].sum() == len(many) // 8
    assert time.perf_counter() - start < 5
