"""Live models: an object of this session travels in a file that only its user's own run loads."""

from __future__ import annotations

import functools
import io
import os
import pickle
import stat
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import workbench as wb
from workbench.api.store import left_out
from workbench.api.stored_run import Run
from workbench.data.digits import Digits, DigitsOptions
from workbench.errors import SpecError
from workbench.models.user import UserModelOptions
from workbench.sources import live
from workbench.store.archive import import_runs, pack
from workbench.store.directory import RunDirectory

FILE = live.FILES["model.name"]
QUICK = {"num_steps": 3, "num_warmup_steps": 0, "global_batch_size": 16}


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(folder))
        yield folder


def a_class_of_this_function() -> type[nn.Module]:
    class Net(nn.Module):
        def __init__(self, width: int = 12) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    return Net


def spec(model: UserModelOptions, **split: object) -> wb.RunSpec:
    return wb.RunSpec(model=model, dataset="digits", split=split, train=QUICK, baseline={"mode": "none"})


def refusal(value: object, **options: object) -> str:
    with pytest.raises(SpecError) as refused:
        wb.UserModel(value, **options)
    return str(refused.value)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(3)
    made = a_class_of_this_function()()
    nn.init.constant_(made.layers[2].bias, 0.25)
    return made


@pytest.fixture(scope="module")
def run(net: nn.Module) -> Run:
    return wb.run(spec(wb.UserModel(net), pipeline=2))


def test_a_run_starts_from_the_values_of_the_module_and_leaves_it_as_it_is(net: nn.Module, run: Run) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    whole = wb.run(spec(wb.UserModel(net)))
    assert {name: value.equal(before[name]) for name, value in net.state_dict().items()} == dict.fromkeys(before, True)
    first = whole.steps().query("kind == 'timed'")["loss"].iloc[0]
    samples = Digits(DigitsOptions()).load()
    from workbench.data.base import sample_order

    inputs, targets = map(torch.from_numpy, samples.batch(sample_order(0, len(samples), 0, 16)))
    assert first == pytest.approx(cross_entropy(net(inputs), targets.long()).item(), rel=1e-6)
    assert run.row()["parity_verdict"] == "equal"
    assert run.row()["final_loss"] == pytest.approx(whole.row()["final_loss"], rel=1e-5)
    assert run.row()["model"] == "live:Net"


def test_an_equal_module_is_equal_work(net: nn.Module) -> None:
    assert wb.UserModel(net) == wb.UserModel(net)
    other = a_class_of_this_function()()
    assert wb.UserModel(other).folder != wb.UserModel(net).folder


def test_a_run_is_repeated_from_its_own_copy(run: Run) -> None:
    again = wb.run(run.spec)
    assert again.directory.code() == run.directory.code()
    assert again.row()["final_loss"] == run.row()["final_loss"]
    kept = run.path / "code" / FILE
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def _cell(name: str) -> object:
    """What a cell of a notebook that has this name defines."""
    cell: dict[str, object] = {"__name__": "__main__"}
    exec("from torch import nn\ndef build(width=4):\n    return nn.Linear(64, 10)\nclass Own(nn.Linear): pass", cell)
    return cell[name]


def test_lambdas_local_functions_and_cells_are_live_and_take_options() -> None:
    Net = a_class_of_this_function()  # noqa: N806
    width = 8

    def local(depth: int = 1) -> nn.Module:
        return nn.Sequential(*(Net(width) for _ in range(depth)))

    for given, options, name in (
        (local, {"depth": 1}, "live:local"),
        (lambda: Net(width), {}, "live:lambda"),
        (functools.partial(local, depth=1), {}, "live:local"),
        (Net, {"width": 5}, "live:Net"),
        (_cell("build"), {"width": 5}, "live:build"),
        (_cell("Own"), {"in_features": 64, "out_features": 10}, "live:Own"),
    ):
        model = wb.UserModel(given, **options)
        assert (model.name, model.options) == (name, options)
        assert isinstance(model.source.load()(**options), nn.Module)
    with pytest.raises(SpecError, match=r"model\.options\.depht: live:local has no argument 'depht'; did you mean 'depth'\?"):
        wb.run(spec(wb.UserModel(local, depht=2)))


def test_a_loss_is_live_with_its_model() -> None:
    Net = a_class_of_this_function()  # noqa: N806
    seen = 2.0

    def doubled(outputs: Tensor, targets: Tensor) -> Tensor:
        return seen * cross_entropy(outputs, targets, reduction="sum")

    model = wb.UserModel(Net(), loss=doubled)
    assert (model.name, model.loss) == ("live:Net", "live:doubled")
    done = wb.run(spec(model, data=2))
    assert done.row()["parity_verdict"] == "equal"
    plain = wb.run(spec(wb.UserModel(Net(), loss=nn.CrossEntropyLoss())))
    first, other = (each.steps().query("kind == 'timed'")["loss"].iloc[0] for each in (done, plain))
    assert 16 < first / other < 64, "a sum over 16 samples, twice"
    assert sorted(done.directory.code().files) == ["live-loss.pickle", "live.pickle"]
    assert wb.run(done.spec).row()["final_loss"] == done.row()["final_loss"]
    assert wb.UserModel(nn.Linear, loss=cross_entropy).loss == "torch.nn.functional:cross_entropy"
    with pytest.raises(
        SpecError, match=r"model\.loss: requires a function of \(outputs, targets\), but got an object of type int"
    ):
        wb.UserModel(Net(), loss=2)


def test_a_mistake_in_a_live_model_has_its_file_and_line() -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.ones(3, 10)

    with pytest.raises(
        SpecError, match=r"the forward pass of live:Wrong over two samples .* in test_live\.py, line \d+: Runtime"
    ):
        wb.run(spec(wb.UserModel(Wrong())))


class Holder:
    def __init__(self) -> None:
        self.lock = threading.Lock()


def _with(change: Callable[[nn.Module], object]) -> nn.Module:
    net = a_class_of_this_function()()
    change(net)
    return net


def test_what_cannot_be_pickled_is_refused_with_its_path() -> None:
    net = _with(lambda net: setattr(net.layers[1], "cache", {"held": [Holder()]}))
    text = refusal(net)
    assert text.startswith("model.name: layers.1.cache['held'][0].lock of live:Net cannot be pickled (TypeError: cannot pickle ")
    lock = threading.Lock()

    def local() -> nn.Module:
        lock.acquire()
        return net

    assert refusal(local).startswith("model.name: lock of live:local cannot be pickled")


def test_a_module_that_is_split_hooked_or_without_values_is_refused() -> None:
    net = a_class_of_this_function()()
    assert "live:DataParallel is a DataParallel; give the module inside it, .module" in refusal(nn.DataParallel(net))
    hooked = _with(lambda net: net.layers[0].register_forward_hook(lambda module, args, output: output * 2))
    assert "layers.0 of live:Net has the hook" in refusal(hooked)
    with torch.device("meta"):
        assert "layers.0.weight of live:Net is on the meta device and has no values" in refusal(a_class_of_this_function()())
    assert "weight of live:LazyLinear is lazy and has no values yet" in refusal(nn.LazyLinear(10))
    assert "Net is built already and takes no arguments, but got width" in refusal(net, width=2)
    with pytest.raises(SpecError, match=r"model\.tensor_plan\.layers\.0: must be 'column', .* but got 'diagonal'"):
        wb.UserModel(net, tensor_plan={"layers.0": "diagonal"})
    assert "requires an nn.Module, or a function or class that returns one, but got an object of type int" in refusal(3)
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(64, 10))
    assert "live:ParametrizedLinear cannot be pickled (RuntimeError: Serialization of parametrized modules" in refusal(
        parametrized
    )
    assert wb.UserModel(nn.utils.spectral_norm(nn.Linear(64, 10))).name == "live:Linear", "torch's own hooks stay"


def test_parameters_that_share_memory_still_share_it() -> None:
    net = a_class_of_this_function()()
    net.other = nn.Parameter(net.layers[0].weight.data.T)
    copy = wb.UserModel(net).source.load()()
    assert copy.other.data_ptr() == copy.layers[0].weight.data_ptr()


class Evil:
    """Creates a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return Path.touch, (self.mark,)


@pytest.fixture
def loaded(tmp_path: Path) -> Path:
    return tmp_path / "loaded"


@pytest.fixture
def model(loaded: Path, tmp_path: Path) -> UserModelOptions:
    """A live model that leaves a mark when it is loaded."""

    class Net(nn.Linear):
        def __init__(self) -> None:
            super().__init__(64, 10)
            self.evil = Evil(loaded)

    return wb.UserModel(Net())


def _swap(path: Path) -> None:
    path.with_name("other").write_bytes(path.read_bytes())
    path.with_name("other").chmod(0o600)
    path.unlink()
    path.symlink_to(path.with_name("other"))


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: path.chmod(0o640), r"other users have access to it \(mode 0640 instead of 0600\)"),
        (lambda path: path.chmod(0o606), r"other users have access to it \(mode 0606 instead of 0600\)"),
        (lambda path: path.parent.chmod(0o770), "other users can replace it"),
        (lambda path: os.chown(path, 12345, -1), r"it belongs to another user \(uid 12345\)"),
        (lambda path: os.chown(path.parent, 12345, -1), "other users can replace it"),
        (_swap, "it is a symbolic link"),
        (_fifo, "it is not a regular file"),
        (_append, "has changed: live.pickle in"),
        (lambda path: path.unlink(), "there is no live object in"),
        (lambda path: path.with_name("hashes.json").unlink(), "does not have the hash that hashes.json records beside it"),
        (lambda path: path.with_name("hashes.json").write_text("[]"), "is damaged"),
    ],
    ids=["group", "others", "folder", "owner", "folder's owner", "link", "fifo", "contents", "absent", "no hash", "damaged"],
)
def test_a_file_that_another_user_could_have_written_is_not_loaded(
    model: UserModelOptions, loaded: Path, change: Callable[[Path], object], sentence: str, request: pytest.FixtureRequest
) -> None:
    if "owner" in request.node.callspec.id and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = Path(model.folder, FILE)
    change(path)
    try:
        with pytest.raises(SpecError, match=sentence):
            wb.run(spec(model))
        if "damaged" not in sentence and "has changed" not in sentence:
            with pytest.raises(SpecError):
                model.source.load()
        assert not loaded.exists()
    finally:
        live._folders().clear()


def test_changed_contents_are_not_loaded_by_a_worker_either(model: UserModelOptions, loaded: Path) -> None:
    _append(Path(model.folder, FILE))
    with pytest.raises(SpecError, match=r"does not have the hash that hashes\.json records beside it, and is not loaded"):
        model.source.load()
    assert not loaded.exists()
    live._folders().clear()


def test_no_text_names_a_live_model() -> None:
    with pytest.raises(SpecError, match="a live object has no name to type: in Python, give the object itself"):
        wb.run(wb.RunSpec(model="live:Net", dataset="digits"))


def test_an_archive_leaves_the_pickle_out_and_says_so(run: Run, tmp_path: Path) -> None:
    packed = pack([run.directory])
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert not [name for name in archive.namelist() if "code/" in name]
    assert left_out([run]) == "Left out: the code of live:Net, so that only this store can repeat its runs."
    (imported,), _ = import_runs(tmp_path / "mine", io.BytesIO(packed))
    assert imported.record().model == "live:Net"
    with pytest.raises(SpecError, match=r"there is no live object in .*code: .*archives of runs leave it out"):
        wb.run(imported.spec())


def test_an_archive_brings_no_pickle_and_names_none(run: Run, loaded: Path, model: UserModelOptions, tmp_path: Path) -> None:
    """Neither as a file of its own, nor by the path of another run's or another session's."""
    root = f"{run.id}/code"
    hashes = Path(model.folder, "hashes.json").read_bytes()
    for folder in ("code", model.folder, str(run.path / "code")):
        packed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(pack([run.directory]))) as before, zipfile.ZipFile(packed, "w") as archive:
            for name in before.namelist():
                text = before.read(name)
                if name.endswith("spec.toml"):
                    text = text.replace(b'folder = "code"', f'folder = "{folder}"'.encode())
                archive.writestr(name, text)
            archive.writestr(f"{root}/{FILE}", pickle.dumps(Evil(loaded)))
            archive.writestr(f"{root}/hashes.json", hashes)
        packed.seek(0)
        (imported,), _ = import_runs(tmp_path / str(len(folder)), packed)
        assert not (imported.path / "code").exists()
        assert imported.spec().as_dict()["model"]["folder"] == str(imported.path.resolve() / "code")
        with pytest.raises(SpecError, match="there is no live object in"):
            wb.run(RunDirectory(imported.path).spec())
    assert not loaded.exists()
