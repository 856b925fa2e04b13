"""Solutions of the exercises, by notebook and number: an answer, why it is right, a hint, and what makes an answer right.

A cell of a notebook says only ``widgets.check_exercise("04.2", answer_2)``, so that it tells neither the value nor the bound.
"""

from __future__ import annotations

from typing import Any

import workbench as wb
from workbench.analysis.degree_search import choices
from workbench.analysis.expected import expected_communication
from workbench.notebook.exercise import Exercise
from workbench.plan.resolve import plan


def _is_near(number: float, right: float, relative: float = 1e-6) -> bool:
    return abs(number / right - 1) < relative


def _num_bytes(spec: wb.RunSpec) -> int:
    """Returns the expected communication volume per step."""
    return int(expected_communication(plan(spec))["bytes"].sum())


def _payloads(run: wb.Run, query: str) -> Any:
    """Returns the payload bytes of the operations of the last trace step."""
    operations = run.communication()
    return operations[operations["step"] == operations["step"].max()].query(query)["payload_bytes"]


def _num_blocks(spec: wb.RunSpec) -> list[int]:
    return [len(plan(spec).local_model(rank).blocks) for rank in range(plan(spec).num_workers)]


def _parameters_cut_after(module: str, base: wb.RunSpec, net: Any) -> list[int]:
    """Returns the parameters of each of two layer-wise workers if the model may be cut after this module alone."""
    planned = plan(base.replace(model=wb.UserModel(net, cut_at=[module]), split={"layer": 2}))
    return [planned.local_model(rank).num_parameters for rank in (0, 1)]


def _of_config(base: wb.RunSpec, **options: Any) -> wb.RunSpec:
    """Returns the spec with these options of its model."""
    return base.replace(model={"name": base.model.name, **options})


def _layers_per_worker(spec: wb.RunSpec) -> list[int]:
    """Returns how many decoder layers each worker holds."""
    planned = plan(spec)
    blocks = (planned.local_model(rank).blocks for rank in range(planned.num_workers))
    return [sum("layers/" in block.name for block in held) for held in blocks]


def _meets_budget_alone(spec: wb.RunSpec, limited: wb.RunSpec) -> bool:
    """Runs the spec, which may differ from the limited one in optimizer and checkpointing only, under the same budget."""
    train = {**spec.as_dict()["train"], "optimizer": limited.train.optimizer, "checkpointing": limited.train.checkpointing}
    if spec.replace(measure=limited.measure, train=train) != limited:
        return False
    return wb.submit(spec.replace(measure=limited.measure)).wait().state == "finished"


def _is_most_even(cut: list[int], spec: wb.RunSpec) -> bool:
    sizes = [block.num_parameters for block in plan(spec).full_model.blocks]
    largest = {
        n: max(sum(sizes[:n]), sum(sizes[n:])) for n in range(1, len(sizes))
    }  # by the number of blocks on the first worker
    return len(cut) == 2 and sum(cut) == len(sizes) and largest.get(cut[0]) == min(largest.values())


def _most_slices(spec: wb.RunSpec) -> int:
    return max(size for size in (2, 4, 8) if (choices(spec, size, {"tensor": {}})["refused"] == "").all())


def _cheapest(table: Any, memory: str, most: float) -> list[str]:
    """Returns the rows with the least communication among those whose memory is at most a limit."""
    fitting = table[table[memory] <= most]["communication_mib"]
    return list(fitting.index[fitting == fitting.min()])


def _idle_ms(sketch: Any) -> float:
    return float((sketch["end_ms"] - sketch["begin_ms"])[sketch["kind"] == "idle"].sum())


def _has_equal_stages(spec: wb.RunSpec) -> bool:
    """Whether the spec has two stages whose forward passes have equal numbers of operations, within 5 %."""
    planned = plan(spec)
    operations = [sum(block.forward_flops for block in planned.local_model(rank).blocks) for rank in range(planned.num_workers)]
    return planned.mesh.axes == {"pipeline": 2} and 0.95 < operations[0] / operations[1] < 1.05


EXERCISES = {
    "00.1": Exercise(
        'run.summary["communication_bytes_per_step"]',
        "As many as before: a gradient is as large as its parameter, whatever the batch.",
        "Does a gradient grow when it is averaged over more samples?",
        lambda num_bytes, spec: num_bytes == _num_bytes(spec.replace(train={"global_batch_size": 32})),
    ),
    "00.2": Exercise(
        'wb.RunSpec(model="transformer", mode="inference", split={"data": 2})',
        "Without training there are no gradients to average.",
        "Why do the workers communicate? Look for a mode without that reason.",
        lambda spec: plan(spec).num_workers == 2 and _num_bytes(spec) == 0,
    ),
    "00.3": Exercise(
        'wb.RunSpec(model="transformer", split={"tensor": 2})',
        "Layer, pipeline and tensor parallelism divide the model itself, and so does `fsdp`.",
        "Try the other strategies in the picker above, and compare the pictures.",
        lambda spec: (
            max(plan(spec).local_model(rank).num_parameters for rank in range(2)) < 0.6 * plan(spec).full_model.num_parameters
            and plan(spec).num_workers == 2
        ),
    ),
    "01.1": Exercise(
        "124_439_808 * 16",
        "Four bytes for the parameter, four for its gradient and eight for Adam's two moments.",
        "How many numbers does training with Adam keep per parameter, and how many bytes has each?",
        lambda number: (
            number == 16 * plan(wb.RunSpec(model={"name": "transformer", "preset": "gpt2-124m"})).full_model.num_parameters
        ),
    ),
    "01.2": Exercise(
        'base.replace(train={**short, "checkpointing": "full", "optimizer": "sgd"})',
        "Activations dominated the peak, and checkpointing computes them again instead of keeping them.",
        "Which category dominated the peak? See the advice of the failed run.",
        _meets_budget_alone,
    ),
    "01.3": Exercise(
        'worker["kept_activation_bytes"] / 16',
        "Kept activations are proportional to the batch, here of 16 samples.",
        "Compare two rows of the table that differ in the batch only.",
        lambda number, growth: _is_near(
            number, (growth.loc["batch × 2", "kept activations"] - growth.loc["as it was", "kept activations"]) * 2**20 / 16, 0.05
        ),
    ),
    "02.1": Exercise(
        "(2 * 7 / 8) / (2 * 1 / 2)",
        "Each worker sends 2(n − 1)/n times the gradients: with any number of workers less than twice as much as with two.",
        "How much of the gradients does each of n workers send in a ring all-reduce? See the lesson *Data* on the page Learn.",
        lambda factor: _is_near(factor, 7 / 4),
    ),
    "02.2": Exercise(
        'base.replace(split={"data": {"size": 2, "compression": "fp16"}})',
        "Gradients can be rounded for communication, which the run reports as *lossy* instead of *equal*.",
        "See the options of `data`.",
        lambda spec, base: _num_bytes(spec) == _num_bytes(base.replace(split={"data": 2})) / 2,
    ),
    "02.3": Exercise(
        "(1e9 * 16 / 2**30, 1e9 * 16 / 8 / 2**30)",
        "Sixteen bytes per parameter, on each worker (DDP) or divided by the number of workers (ZeRO-3).",
        "Adam keeps two numbers per parameter, beside the parameter and its gradient. Which of them does ZeRO-3 divide?",
        lambda pair: abs(pair[0] - 16e9 / 2**30) < 0.1 and abs(pair[1] - 2e9 / 2**30) < 0.1,
    ),
    "03.1": Exercise(
        "32 * 32 * 128 * 4",
        "One activation per sample crosses the cut: batch × sequence × features × four bytes.",
        "One activation per sample crosses the cut. What is its shape?",
        lambda number, run: number == _payloads(run, "operation == 'send' and phase == 'forward'").sum(),
    ),
    "03.2": Exercise(
        "7 / 8",
        "One of eight workers computes at a time, so that each waits for the other seven: (p − 1)/p.",
        "How many of the workers compute at a time?",
        lambda share: _is_near(share, 7 / 8),
    ),
    "03.3": Exercise(
        "[4, 4]",
        "Embedding and head have nearly equal sizes here, so that the best cut is in the middle.",
        "There are eight blocks: an embedding, six layers and a head; `plan(spec).full_model.blocks` has their parameters.",
        _is_most_even,
    ),
    "04.1": Exercise(
        "27",
        "3/(m + 3) is at most 1/10 from m = 27 on.",
        "Solve the formula of the bubble for m.",
        lambda m: (4 - 1) / (m + 4 - 1) <= 0.1 < (4 - 1) / (m - 1 + 4 - 1),
    ),
    "04.2": Exercise(
        "(2 - 1) / 4",
        "It is a share of the compute time of m microbatches; of the whole step the same bubble is 1/5.",
        "Insert p and m. The total is that of the compute time alone.",
        lambda share: _is_near(share, 1 / 4),
    ),
    "04.3": Exercise(
        'base.replace(split={"pipeline": {"size": 4, "num_microbatches": 8, "partition": [2, 4, 4, 4]}})',
        "`partition` takes the number of blocks of each stage.",
        "`partition` takes a list.",
        lambda spec: _num_blocks(spec) == [2, 4, 4, 4] and spec.split.root["pipeline"].num_microbatches == 8,
    ),
    "05.1": Exercise(
        "16 * 64 * 128 * 4",
        "The sums of all samples, positions and features are added, in four bytes each.",
        "Its payload is one number per sample, position and feature.",
        lambda number, run: number == _payloads(run, "operation == 'all_reduce' and phase == 'forward'").mode()[0],
    ),
    "05.2": Exercise(
        "4",
        "A head cannot be divided, so that four heads make at most four slices.",
        "What is the smallest part that attention can be divided into?",
        lambda number, spec: number == _most_slices(spec),
    ),
    "05.3": Exercise(
        'transformer.replace(split={"tensor": {"size": 2, "cut": {"embedding": "none", "head": "none"}}})',
        "The cost is memory, and that both workers compute the whole head.",
        'Kinds of layers are named in `cut`; "none" keeps one whole.',
        lambda spec, sliced: (
            _num_bytes(spec) < _num_bytes(sliced)
            and plan(spec).num_workers == 2
            and spec.split.root["tensor"].cut.get("head") == "none"
        ),
    ),
    "06.1": Exercise(
        "[2]",
        "Worker 2 is the only one that differs from worker 0 in the data coordinate alone.",
        "Compare the coordinates in the table: along which axis are gradients averaged?",
        lambda ranks, mesh: sorted(ranks) == [r for r in range(1, 8) if {**mesh.coordinate(r), "data": 0} == mesh.coordinate(0)],
    ),
    "06.2": Exercise(
        "possible.index[0]",
        "The table is sorted by memory: pipeline and tensor divide the model, data does not.",
        "Look at the order of the table.",
        lambda label, table: table.loc[label, "memory_mib"] == table["memory_mib"].min(),
    ),
    "06.3": Exercise(
        'possible[possible["memory_mib"] <= 6.0]["communication_mib"].idxmin()',
        "Memory decides what is possible, communication what is best among it.",
        "Filter first, then take the least communication.",
        lambda label, table: label in _cheapest(table, "memory_mib", 6.0),
    ),
    "07.1": Exercise(
        "32",
        "The payload is samples × positions × features × bytes, and only the number of positions changes.",
        "Which factor of the payload changes between prompt and decode?",
        lambda factor, run: (
            factor
            == (sizes := run.communication().query("operation == 'all_reduce' and rank == 0")["payload_bytes"]).max()
            / sizes.min()
        ),
    ),
    "07.2": Exercise(
        '"data"',
        "Replicas answer different users and never wait for each other.",
        "Which one has two workers that never wait for each other?",
        lambda name, runs: runs[name].summary["communication_bytes_per_step"] == 0 and len(runs[name].summary["workers"]) == 2,
    ),
    "07.3": Exercise(
        'generation.replace(inference={"prompt_length": 32, "num_new_tokens": 32}, split={"layer": 2})',
        "Prompt and new tokens fill the 64 positions of the model.",
        "Prompt and new tokens must fit into dataset.sequence_length.",
        lambda spec: (
            spec.split.label == "layer2" and plan(spec) and spec.inference.num_new_tokens == spec.inference.prompt_length == 32
        ),
    ),
    "08.1": Exercise(
        "2 * 1e-3 + 8 * 2**20 / 100e6",
        "Two latencies, and the payload once over the link: 2(n − 1)·α + 2(n − 1)/n · S/B with n = 2.",
        "Insert n = 2 into the formula of the ring. MiB are 2²⁰ bytes, MB are 10⁶.",
        lambda seconds: abs(seconds - (2 * 1e-3 + 8 * 2**20 / 100e6)) < 1e-6,
    ),
    "08.2": Exercise(
        "2 * 1e-3 * 100e6",
        "2·α = S/B for two workers, so S = 2·α·B: below it, send fewer messages, above it, fewer bytes.",
        "Set both parts of the time equal and solve for the payload.",
        lambda size: abs(size - 2 * 1e-3 * 100e6) < 1,
    ),
    "08.3": Exercise(
        'base.replace(split={"pipeline": 2, "tensor": 2}, link={"axes": {"pipeline": {"preset": "ethernet-1g"}}})',
        "A link of one axis leaves the others on the machine's own link.",
        "`link.axes` sets the link of a single axis.",
        lambda spec: plan(spec).mesh.axes == {"pipeline": 2, "tensor": 2} and list(spec.link.parts) == ["axes.pipeline"],
    ),
    "09.1": Exercise(
        'base.replace(split={"layer": {"size": 2, "partition": [2, 4]}})',
        "`partition` takes the number of blocks of each worker.",
        "`partition` takes a list of numbers of blocks; there are six.",
        lambda spec: sorted(_num_blocks(spec)) == [2, 4],
    ),
    "09.2": Exercise(
        'max(plan(base.replace(model=wb.UserModel(net, cut_at=["layers.2"]), split={"layer": 2})).local_model(rank)'
        ".num_parameters for rank in (0, 1))",
        "The first worker holds the input and three of the four layers; the cut is where `cut_at` says, whatever is even.",
        "`plan(spec).local_model(rank)` is the part of a worker; `wb.UserModel(net, cut_at=[…])` is the model.",
        lambda number, base, net: number == max(_parameters_cut_after("layers.2", base, net)),
    ),
    "09.3": Exercise(
        'frame[frame["peak_mib"] <= 0.6 * frame.loc["dp2", "peak_mib"]]["communication_mib"].idxmin()',
        "Stages communicate one activation at each cut, less than gradients or slices do.",
        "Filter `frame` by `peak_mib`, then look at `communication_mib`. If two are equal, either is correct.",
        lambda name, frame: name in _cheapest(frame, "peak_mib", 0.6 * frame.loc["dp2", "peak_mib"]),
    ),
    "10.1": Exercise(
        "(18 + 10 + 8) / (2 * 60)",
        "Worker 0 waits once, for its gradient; worker 1 for its input and for the all-reduce to begin.",
        "Add up the idle intervals of both lanes. The whole is two workers times the step.",
        lambda share, sketch: _is_near(share, _idle_ms(sketch) / (2 * sketch["end_ms"].max())),
    ),
    "10.2": Exercise(
        "(46 - 38) / 20",
        "Until its backward ends, worker 0 computes while the bytes travel; from then on it is blocked.",
        "Where does the lane of worker 0 become orange?",
        lambda share: _is_near(share, 8 / 20),
    ),
    "10.3": Exercise(
        'base.replace(split={"pipeline": {**pipeline, "partition": [7, 7], "num_microbatches": 16}})',
        "With two stages the order takes 1/(m + 1) of the ideal step, less than a tenth for m ≥ 10; sixteen divide 256.",
        "The partition [7, 7] has equal stages; (p − 1)/(m + p − 1) gives the number of microbatches, which divides the batch.",
        lambda spec: _has_equal_stages(spec) and 1 / (spec.split.root["pipeline"].num_microbatches + 1) < 0.1,
    ),
    "11.1": Exercise(
        "num_parameters + num_layers * 3 * hidden * (256 - 192)",
        "Gate, up and down projection of each layer have one row or column more per inner feature.",
        "Three projections of each of the four layers grow by 64 inner features of 64 weights.",
        lambda number, base: number == plan(_of_config(base, options={"intermediate_size": 256})).full_model.num_parameters,
    ),
    "11.2": Exercise(
        "4",
        "Four workers must divide the key and value heads, which must divide the eight query heads.",
        "The number of workers must divide the units of attention, its key and value heads.",
        lambda number: number == 4,
    ),
    "11.3": Exercise(
        '["model.layers.0", "model.layers.2"]',
        "Only one partition is left: there are as many cut points as cuts.",
        "Three workers have two cuts: after the first layer and before the last one.",
        lambda cut_at, base: _layers_per_worker(_of_config(base, cut_at=cut_at).replace(split={"layer": 3})) == [1, 2, 1],
    ),
}
