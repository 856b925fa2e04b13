"""Columns of the tables: names carry their unit; what could not be measured is empty, never 0."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """A column of a table, as ``docs/tables.md`` lists it."""

    kind: str
    """Its Arrow type."""

    meaning: str
    """One sentence: what it says, and when it is empty."""

    unit: str = ""
    """Of its numbers; empty for texts and identifiers."""

    is_figure: bool = False
    """Whether it is measured, so that ``--assert`` can compare it with a number."""


def _figure(meaning: str, unit: str, kind: str = "float64") -> Column:
    return Column(kind, meaning, unit, is_figure=True)


RUNS: dict[str, Column] = {
    "run_id": Column("string", "Id of the run: local time of submission, split and a random suffix."),
    "name": Column("string", "Name of the run, from the spec or from `workbench label`."),
    "state": Column(
        "string", "`queued`, `starting`, `running`, `finished`, `failed`, `cancelled` or `lost`; `damaged` if it cannot be read."
    ),
    "mode": Column("string", "`train` or `inference`."),
    "model": Column("string", "Name of the model."),
    "dataset": Column("string", "Name of the dataset."),
    "split": Column("string", "Label of the split, such as `dp2-tp2`; `single` for one worker."),
    "num_workers": Column("int64", "Workers of the run, the product of the sizes of the mesh's axes.", "workers"),
    "device": Column("string", "`cpu` or `cuda`."),
    "backend": Column("string", "Backend of `torch.distributed`: `gloo` or `nccl`."),
    "torch_version": Column("string", "Version of torch that the run was submitted with."),
    "created_at": Column("float64", "Time of submission, since 1970-01-01 UTC.", "s"),
    "baseline_run_id": Column(
        "string", "Id of the run that `speedup` refers to, its own if it is that baseline; empty if `baseline.mode` is `none`."
    ),
    "step_time_s": _figure("Median over the timed steps of the slowest worker's step; fetching the batch is excluded.", "s"),
    "step_time_p10_s": _figure("10th percentile of the same step times.", "s"),
    "step_time_p90_s": _figure("90th percentile of the same step times.", "s"),
    "samples_per_s": _figure("`train.global_batch_size` / `step_time_s`.", "samples/s"),
    "tokens_per_s": _figure(
        "Tokens of the global batch / `step_time_s`; of a generation, prompt and new tokens. Empty if the data has no tokens.",
        "tokens/s",
    ),
    "speedup": _figure(
        "`step_time_s` of the baseline / `step_time_s`, so 1 for the baseline; empty without a finished baseline.", "ratio"
    ),
    "speedup_same_cores": _figure(
        "The same against one worker that has the threads of all workers together, but no more than there are cores; empty for"
        " one worker and unless `baseline.mode` is `auto`.",
        "ratio",
    ),
    "efficiency": _figure(
        "`speedup` divided by how many times as many threads as its baseline the run has (on GPUs: workers).", "ratio"
    ),
    "parameters_per_worker": _figure("Most parameter elements that any worker holds.", "elements", "int64"),
    "peak_memory_bytes": _figure(
        "Most bytes of tensors alive at once on any worker during the memory steps; empty without memory steps.", "bytes", "int64"
    ),
    "communication_bytes_per_step": _figure(
        "Payload bytes communicated per step over the whole run, each collective once per group and each send once; mean over the"
        " trace steps, empty without them.",
        "bytes",
        "int64",
    ),
    "compute_s": _figure(
        "Forward and backward passes. Mean over workers and trace steps; empty without trace steps and on GPUs.", "s"
    ),
    "exposed_communication_s": _figure(
        "Issuing communication, and waiting for it after its last participant has entered. Mean as for `compute_s`.", "s"
    ),
    "idle_s": _figure(
        "Waiting in a communication operation until its last participant has entered. Mean as for `compute_s`.", "s"
    ),
    "optimizer_s": _figure("`zero_grad`, gradient clipping and the optimizer's update. Mean as for `compute_s`.", "s"),
    "other_s": _figure("The rest of the step, which no event explains. Mean as for `compute_s`.", "s"),
    "bubble_fraction": _figure(
        "Idle time / step time, both summed over all workers, on the trace steps; empty without a pipeline axis or `compute_s`.",
        "ratio",
    ),
    "imbalance": _figure("Largest `compute_s` of any worker / mean over workers; empty where `compute_s` is.", "ratio"),
    "final_loss": _figure("Loss of the global batch at the last timed step; empty in inference.", "loss"),
    "parity_ok": _figure(
        "Whether the verdict is `equal` or `equal per shard`; empty if it is `lossy` or `undecided`, or parity was not checked.",
        "",
        "bool",
    ),
    "parity_max_error": _figure(
        "Largest relative error of any tensor against one worker that computes the same shards, or against the whole batch if"
        " only that agrees; empty if it is infinite or parity was not checked.",
        "ratio",
    ),
    "step_time_p95_s": _figure("95th percentile of the step times behind `step_time_s`.", "s"),
    "time_to_first_token_s": _figure(
        "Median over timed steps of the time until the last sample has its first new token; generation only.", "s"
    ),
    "time_per_token_s": _figure(
        "Median over timed steps of the mean time of each token after the first; generation of two tokens or more.", "s"
    ),
    "generated_tokens_per_s": _figure("New tokens of the global batch / median step time; generation only.", "tokens/s"),
    "other_load_cores": _figure(
        "Cores that other programs kept busy during the timed steps, on average; empty if these took less than 0.3 s.", "cores"
    ),
    "dropped_tokens": _figure(
        "Assignments of a token to an expert that was full, per step over all workers, mean over the timed steps; empty without"
        " experts.",
        "assignments",
    ),
    "schedule_s": _figure(
        "What a schedule does between passes: cutting the batch, preparing operations, merging losses. Mean as for `compute_s`.",
        "s",
    ),
    "flops_per_step": _figure(
        "Floating-point operations of a step by formula, matrix products only: 3 × forward × batch in training, forward × batch"
        " in inference. Empty for a generation.",
        "FLOP",
        "int64",
    ),
    "flops_per_s": _figure("`flops_per_step` / `step_time_s`.", "FLOP/s"),
    "utilisation": _figure(
        "`flops_per_s` / the peak of all workers that `workbench calibrate` measured; empty on GPUs and if none was"
        " made with this machine, torch, precision and number of threads.",
        "ratio",
    ),
    "link": Column("string", "Label of the emulated link, such as `ethernet-1g`; empty if none is emulated."),
    "tags": Column("string", "Tags, separated by commas."),
    "note": Column("string", "Note that people wrote about the run."),
    "threads_per_worker": Column("int64", "Threads that each worker computes with on the CPU.", "threads"),
    "parity_on_purpose": Column("string", "What the split changes on purpose; empty if nothing."),
    "parity_verdict": Column(
        "string", "`equal`, `equal per shard`, `lossy`, `undecided` or `wrong`; empty if parity was not checked."
    ),
    "parity_whole_batch_error": _figure(
        "Largest relative error of any tensor against one worker that computes the whole batch at once; empty if replicas have"
        " parameters of their own.",
        "ratio",
    ),
    "parity_cause": Column(
        "string",
        "Why the whole batch gives another result than its shards; or, if the verdict is `equal`, what computes in lower"
        " precision than the check; or, if it is `undecided`, that the model amplifies rounding; or, if it is `wrong`, the state"
        " that the module keeps between calls. Empty if there is none of these.",
    ),
    "parity_remedy": Column("string", "What makes both equal; empty if they are, or if nothing does."),
    "trust": Column(
        "string",
        "State of the times: `quiet`, `shared cores`, `too few steps` or `disturbed`; empty for a run that has not finished.",
    ),
    "group": Column("string", "Name that runs submitted together share, such as all splits of four workers; empty for others."),
    "utilisation_trust": Column(
        "string", "State of `utilisation`: that of the times or, if these are quiet, `stale calibration`; empty where it is."
    ),
}
"""Columns of ``runs``, in order; a new one comes last."""

RUN_COLUMNS = tuple(RUNS)
RUN_FIGURES = tuple(name for name, column in RUNS.items() if column.is_figure)

_RUN_ID = Column("string", "Id of the run.")
_RANK = Column("int64", "Rank of the worker.")
_STEP = Column("int64", "Number of the step, counted from 0 over all steps of the run.")

TABLES: dict[str, dict[str, Column]] = {
    "steps": {
        "run_id": _RUN_ID,
        "rank": _RANK,
        "step": _STEP,
        "kind": Column("string", "`warmup`, `timed`, `trace`, `memory` or `profiler`."),
        "start_s": Column("float64", "When the step began.", "s"),
        "duration_s": Column("float64", "Forward, backward, communication and optimizer; in inference the forward passes.", "s"),
        "num_samples": Column(
            "int64", "Samples that the worker takes part in; workers of one replica count the same ones.", "samples"
        ),
        "num_tokens": Column(
            "int64",
            "Tokens of these samples, under context parallelism the worker's part, of a generation the new ones; empty if the"
            " data has none.",
            "tokens",
        ),
        "loss": Column(
            "float64",
            "Loss of the worker's part of the batch, weighted so that the mean over the workers that have one is the global"
            " batch's; empty in inference and on stages before the last.",
            "loss",
        ),
        "time_to_first_token_s": Column("float64", "From the step's start to the first new token; generation only.", "s"),
        "num_operations": Column(
            "int64", "Communication operations that the worker issued; a send and its receive are one each.", "operations"
        ),
        "payload_bytes": Column("int64", "Payload of these operations, of a collective the full tensor's.", "bytes"),
        "blocked_s": Column(
            "float64",
            "How long the worker waited for these operations, idle or not, from the start to the end of each wait. Unlike the"
            " column of `communication`, without issuing them. Empty on GPUs.",
            "s",
        ),
        "data_s": Column("float64", "Fetching the batch, before the step and outside `duration_s`.", "s"),
    },
    "memory": {
        "run_id": _RUN_ID,
        "rank": _RANK,
        "step": _STEP,
        "time_s": Column("float64", "When the event happened.", "s"),
        "event": Column(
            "string",
            "What happened, such as `forward of layer0 ends`; `peak` is the step's largest sum over all categories, `in …` the"
            " largest between two other events.",
        ),
        "category": Column(
            "string",
            "`parameters`, `gradients`, `optimizer_state`, `activations`, `buffers`, `communication`, `workspace` or `other`.",
        ),
        "bytes": Column("int64", "Bytes of tensors of the category that were alive then.", "bytes"),
    },
    "communication": {
        "run_id": _RUN_ID,
        "rank": _RANK,
        "step": _STEP,
        "index": Column("int64", "Number of the operation in the worker's step, counted from 0 in order of issue."),
        "operation": Column(
            "string",
            "`all_reduce`, `all_gather`, `reduce_scatter`, `all_to_all`, `broadcast`, `gather`, `scatter`, `reduce`, `barrier`,"
            " `send` or `recv`.",
        ),
        "axis": Column(
            "string", "Axis of the mesh that the group spans, or `expert`; several are joined by `+`, and `world` is all workers."
        ),
        "group": Column("string", "torch's name of the process group."),
        "peer": Column(
            "int64", "Rank at the other end of a send or recv, or root of a broadcast, reduce, gather or scatter; else empty."
        ),
        "phase": Column("string", "Phase of the step that it belongs to: `forward`, `backward` or `optimizer`."),
        "payload_bytes": Column(
            "int64",
            "Bytes of the full tensor: of an all-gather its output, of a reduce-scatter its input, of an all-to-all this"
            " worker's input.",
            "bytes",
        ),
        "ring_bytes": Column(
            "int64",
            "Bytes that a rank sends under the ring algorithm, for n ranks and payload S: 2(n − 1)S/n for an all-reduce,"
            " (n − 1)S/n for all-gather, reduce-scatter, all-to-all and, on average over ranks, broadcast; S for a send, 0 for"
            " all others. A formula, not a measurement (Patarasuk and Yuan 2009).",
            "bytes",
        ),
        "dtype": Column("string", "Element type of the tensor; empty without one."),
        "start_s": Column("float64", "When the worker entered the operation.", "s"),
        "end_s": Column("float64", "When the wait for it ended; empty if nobody waited and on GPUs.", "s"),
        "exposed_communication_s": Column(
            "float64", "Issuing it, and the wait after its last participant had entered; empty on GPUs.", "s"
        ),
        "idle_s": Column("float64", "The wait until its last participant had entered; empty on GPUs.", "s"),
        "blocked_s": Column(
            "float64",
            "`exposed_communication_s` + `idle_s`: issuing it, from `start_s` on, and the wait for it, until `end_s`. The"
            " worker's computation in between is not part of it. Empty on GPUs.",
            "s",
        ),
        "late_rank": Column("int64", "Rank that entered last, for which this worker was idle; empty if it was not."),
        "sequence": Column(
            "int64",
            "Number of the operation in its group, of sends and recvs between the two ranks; the same on every participant.",
        ),
        "completed_s": Column(
            "float64", "When it was complete, whether or not anybody waited for it; empty if unknown and on GPUs.", "s"
        ),
    },
    "timeline": {
        "run_id": _RUN_ID,
        "rank": _RANK,
        "step": _STEP,
        "kind": Column(
            "string",
            "`forward`, `backward`, `backward_input`, `backward_weight`, `optimizer`, `schedule`, `communication` or `idle`.",
        ),
        "stage": Column("int64", "Stage, counted from 0 over all workers; empty for what belongs to none."),
        "microbatch": Column("int64", "Microbatch, counted from 0; empty for what belongs to none."),
        "name": Column(
            "string", "Operation that was issued or waited for, or what a span does, such as `zero_grad`; else empty."
        ),
        "start_s": Column("float64", "When it began.", "s"),
        "end_s": Column("float64", "When it ended.", "s"),
    },
    "peak_tensors": {
        "run_id": _RUN_ID,
        "rank": _RANK,
        "step": _STEP,
        "category": Column("string", "Category, as in `memory`."),
        "module": Column("string", "Module in which it was allocated, or name of the parameter that it belongs to."),
        "shape": Column("string", "Shape, such as `16×64`; of what is not one tensor its number of elements."),
        "dtype": Column("string", "Element type."),
        "bytes": Column("int64", "Size.", "bytes"),
    },
}
"""Table → its columns, in order. Times are seconds on the run's own clock, which is one for all workers."""

ROWS = {
    "runs": "One row per run; `wb.runs()` and `workbench ls --json` return the same columns.",
    "steps": "One row per worker and step of any kind.",
    "memory": "One row per worker, event and category of the memory steps.",
    "communication": "One row per worker and communication operation of the trace steps.",
    "timeline": "One row per worker and event of the trace steps; waits lie inside the pass that waits. No rows on GPUs.",
    "peak_tensors": "One row for each of the 20 largest tensors alive at a worker's peak of each memory step.",
}
"""Table → what a row represents."""
