"""A benchmark of models times only what computes the right thing, in turns, and says the rest in sentences."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import swinkit
from small_models import SMALL, small
from swinkit.bench import models, processes, rounds
from swinkit.bench.jobs import Engine, Job
from swinkit.bench.models import Interrupted, make_plan
from swinkit.bench.processes import Worker, WorkerError, explained
from swinkit.bench.results import FORMAT, TOLERANCE, ModelSpeed, Row, row
from swinkit.bench.runtimes import RUNTIMES, Runtime, chosen
from swinkit.bench.subject import Subject, check_memory, randomised, resolve
from swinkit.bench.worker import STATUS, Station, build, peak, reset_peak
from swinkit.catalogue import models as catalogue
from swinkit.cli import run
from swinkit.config import SwinConfig
from swinkit.errors import CheckpointError, ConfigError, InputError, UnknownNameError

QUICK = {"batch_size": 2, "dtype": "float32", "threads": 1, "rounds": 2, "seconds": 0.02}
TIMM = next(runtime for runtime in RUNTIMES if runtime.name == "timm")
WRONG = Runtime("wrong", "fake_runtimes:wrong")
OURS = tuple(runtime for runtime in RUNTIMES if not runtime.peer and not runtime.compiles)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "small"
    swinkit.save_pretrained(randomised(small()), folder)
    return folder


def test_real_workers_on_the_command_line(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("swinkit.bench.runtimes.RUNTIMES", (RUNTIMES[0], TIMM, WRONG))
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", f"{Path(swinkit.__file__).parents[1]}:{Path(__file__).parent}")
    options = ["--batch-size", "2", "--dtype", "float32", "--threads", "1", "--rounds", "2", "--seconds", "0.02"]
    code = run(["bench", "model", str(saved), *options, "--peers", "timm", "--json", "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    found = json.loads(out)
    rows = {row["runtime"]: row for row in found["rows"]}
    assert list(rows) == ["swinkit", "timm", "wrong"], err
    assert code == 1, "a runtime failed"
    for name in ("swinkit", "timm"):
        one = rows[name]
        assert not one["failed"]
        assert one["difference"] <= 1e-5
        assert 0 < one["fastest"] <= one["low"] <= one["median"] <= one["high"]
        assert one["images_per_second"] == pytest.approx(2 / one["median"])
        assert one["repetitions"] >= 2
        assert one["peak_memory"] < 500 * 2**20
        assert 0 < one["share"] == pytest.approx(one["gflops"] / max(found["gemm"]["float32"].values()))
    assert rows["timm"]["says"].startswith("timm ")
    assert rows["wrong"]["difference"] == pytest.approx(1e-3, rel=0.01)
    assert rows["wrong"]["median"] is None
    assert "differ from plain swinkit's in float32 by 1.0e-03" in rows["wrong"]["failed"]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == found
    assert "| wrong | failed |" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert run(["bench", "model", str(saved), "--out", str(tmp_path / "out")]) == 1
    assert "exists already" in capsys.readouterr().err


class FakeWorker:
    """In this process, without time: computes plainly, and notes who was asked what."""

    log: ClassVar[list[tuple[str, str]]] = []
    interrupt_after = 10**9

    def __init__(self, job: Job) -> None:
        self.job, self.says, self.open = job, f"fake {job.runtime}", True
        exports = job.export == job.build
        self.log.append((job.runtime, "export" if exports else "start"))
        if exports:
            job.graph.mkdir()

    def ask(self, command, *arguments):
        self.log.append((self.job.runtime, command))
        if len([1 for _, asked in self.log if asked == "time"]) > self.interrupt_after:
            raise KeyboardInterrupt
        return getattr(self, command)(*arguments)

    def outputs(self, path):
        x = torch.from_numpy(np.load(self.job.images)[: self.job.batch_size])
        with torch.no_grad():
            out = swinkit.from_pretrained(self.job.weights)(x)
        np.savez(path, *[array.numpy() for array in ([out] if isinstance(out, torch.Tensor) else out)])

    def warm(self):
        return 0.01

    def time(self, repetitions):
        return {"seconds": [0.01] * repetitions, "peak": 1 << 20}

    def rate(self):
        return {"swinkit": 10.0, "oneDNN": 20.0}

    def close(self):
        self.log.append((self.job.runtime, "close"))


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(rounds, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "log", [])
    monkeypatch.setattr("swinkit.bench.runtimes.RUNTIMES", OURS)
    return FakeWorker


def test_turns_go_back_and_forth(fake):
    speed = swinkit.bench.model(SwinConfig(**SMALL), **QUICK | {"rounds": 3, "seconds": 0.06, "batch_size": [1, 2]})
    half = len(fake.log) // 2
    turns = [who for who, what in fake.log[:half] if what in ("time", "rate")]
    assert turns == ["swinkit", "swinkit plain", "gemm", "swinkit plain", "swinkit", "gemm", "swinkit", "swinkit plain", "gemm"]
    assert [who for who, what in fake.log[:half] if what == "close"] == ["swinkit", "swinkit plain", "gemm"]
    assert speed.cells == [("float32", 1), ("float32", 2)]
    assert all(found.repetitions == 3 * 2 for found in speed.rows)
    assert speed.gemm == {"float32": {"swinkit": 10.0, "oneDNN": 20.0}}
    assert speed.rows[0].share == pytest.approx(100 * speed.gflop / 20)
    assert speed.limit("float32") == pytest.approx(20 / speed.gflop)


def test_ctrl_c_keeps_what_was_measured(fake, capsys, tmp_path):
    fake.interrupt_after = 3
    try:
        with pytest.raises(Interrupted) as stopped:
            swinkit.bench.model(SwinConfig(**SMALL), **QUICK)
        assert [(found.runtime, found.repetitions) for found in stopped.value.speed.rows] == [("swinkit", 1), ("swinkit plain", 2)]
        assert stopped.value.speed.interrupted
        assert [what for _, what in fake.log[-3:]] == ["close"] * 3
        fake.log.clear()
        options = ["--batch-size", "1", "--dtype", "float32", "--rounds", "2", "--seconds", "0.02", "--out", str(tmp_path / "out")]
        assert run(["bench", "model", "swin_pico_patch2_window4_32", *options]) == 130
    finally:
        fake.interrupt_after = 10**9
    out, err = capsys.readouterr()
    assert "swinkit plain" in out
    assert "interrupted" in out
    assert "What was measured so far is above." in err
    assert json.loads((tmp_path / "out" / "results.json").read_text())["interrupted"]


@pytest.mark.parametrize("version", [1, 2])
def test_backbones_are_compared_map_by_map(fake, version):
    net = randomised(swinkit.create_model(SwinConfig(**SMALL | {"version": version}), features_only=True))
    speed = swinkit.bench.model(net, **QUICK)
    assert all(found.difference == 0 for found in speed.rows)
    assert "timm" not in speed.left_out, "no peer is there in this test"


def test_a_difference_of_one_map_counts(tmp_path):
    subject = Subject(randomised(swinkit.create_model(SwinConfig(**SMALL), features_only=True)), tmp_path)
    subject.lay_out(2)
    good = [array.copy() for array in subject.wanted]
    assert subject.difference(good) == 0
    assert subject.difference([array[:1] for array in good]) == 0
    good[1][0, 0, 0, 0] += 0.5 * abs(good[1]).max()
    assert subject.difference(good) == pytest.approx(0.5)
    good[0][0, 0, 0, 0] = np.nan
    assert subject.difference(good) == float("inf")
    assert subject.difference(good[:1]) == float("inf")
    assert subject.difference([]) == float("inf")
    for name in ("timm", "torchvision", "transformers"):
        with pytest.raises(CheckpointError, match="backbone"):
            subject.layout(name)


@pytest.mark.parametrize("version", [1, 2])
def test_random_weights_make_every_parameter_count(version):
    net = randomised(small(version))
    x = torch.randn(1, 3, 32, 32)
    before = net(x)
    for name, parameter in net.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            # A shift of one bias for all is what softmax and norms do not see, so the values move apart.
            parameter.mul_(torch.linspace(-1, 2, parameter.numel()).view_as(parameter))
            moved = (net(x) - before).abs().max() / before.abs().max()
            parameter.copy_(kept)
        # The bias of keys has no say in softmax(q k); with the others in the same vector it shows all the same.
        assert moved > TOLERANCE["float32"], name


def test_operations_are_those_of_the_catalogue(tmp_path):
    name = "swinv2_pico_patch2_window4_32"
    subject = Subject(swinkit.create_model(name), tmp_path)
    assert subject.gflop() == pytest.approx(2 * catalogue(name)[0].gflops, abs=1e-4 * 2)
    assert subject.shapes(3)[:3] == [[3 * 16 * 16, 32, 96], [3 * 16 * 16, 32, 128], [3 * 16 * 16, 128, 32]]
    assert len(subject.shapes(1)) == 3 * 3


def test_rows():
    found = row("x", "float32", 4, [0.4, 0.1, 0.2, 0.3, 0.5], 2.0, says="y")
    assert (found.median, found.fastest, found.low, found.high) == (0.3, 0.1, 0.2, 0.4)
    assert found.images_per_second == pytest.approx(4 / 0.3)
    assert found.gflops == pytest.approx(8 / 0.3)
    assert row("x", "float32", 1, [0.1], 1.0).high == 0.1
    assert row("x", "float32", 1, [0.1], 1.0, failed="It broke.").median is None


def example(**changes):
    rows = (
        row("swinkit", "float32", 1, [0.02, 0.021, 0.025], 9.0, says="fused: whole blocks", difference=1e-6, peak_memory=300 << 20),
        row("timm", "float32", 1, [0.06, 0.07], 9.0, says="timm 1.0, eager", difference=2e-6),
        Row("openvino", "float32", 1, failed="Its outputs differ.", difference=0.1),
    )
    values = {
        "model": "swin", "weights": "random weights", "input": (3, 224, 224), "parameters": 28_000_000, "gflop": 9.0, "threads": 2,
        "processors": 2, "rounds": 3, "cpu": "CPU", "versions": {"torch": "2"}, "variables": {}, "rows": rows,
        "gemm": {"float32": {"swinkit": 500.0, "oneDNN": 480.0}}, "left_out": {"onnxruntime": "It is not installed."},
    }  # fmt: skip
    return ModelSpeed(**values | changes)


def test_tables_say_everything():
    for shown in (example().table(), example().markdown()):
        for wanted in (
            "47.6",
            "15.4",
            "failed",
            "Its outputs differ.",
            "onnxruntime left out: It is not installed.",
            "fused: whole blocks",
        ):
            assert wanted in shown
        assert "at most 55.6 images/s" in shown
        assert "interrupted" not in shown
    assert "interrupted" in example(interrupted=True).table()
    assert example().markdown("##").startswith("## swin\n")
    content = json.loads(json.dumps(example().to_dict()))
    assert content["format"] == FORMAT
    assert set(content["rows"][0]) == set(Row.__dataclass_fields__)


def test_the_page_of_peers(tmp_path, monkeypatch):
    page = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "peers.py"))
    monkeypatch.setattr("sys.argv", ["peers.py", "--isa", "avx2"])
    page["write"]([example(), example(model="other", gemm={})], tmp_path / "peers", "avx2")
    shown, content = (tmp_path / "peers.md").read_text(), json.loads((tmp_path / "peers.json").read_text())
    assert [speed["model"] for speed in content] == ["swin", "other"]
    assert "`python benchmarks/peers.py --isa avx2`" in shown
    assert "Held to AVX2" in shown
    for line in (
        "| swin | swinkit | 47.6 |",
        "| swin | openvino | failed |",
        "| swin | matrix products alone | 55.6 |",
        "## swin",
        "### float32",
    ):
        assert line in shown
    # By the medians: 21 ms, and 65 ms of the only peer with a time.
    assert f"| swin | **swinkit / best peer** | **{65 / 21:.2f}** |" in shown
    page["write"]([example(rows=example().rows[:1])], tmp_path / "alone", None)
    assert "best peer** |  |" in (tmp_path / "alone.md").read_text()


def test_unknown_and_impossible_options(monkeypatch):
    arguments = {"batch_size": [1], "dtype": None, "threads": 1, "compile": False, "peers": [], "rounds": 1, "seconds": 1.0}
    for wrong, said in (
        ({"batch_size": [0]}, "batch_size is 0; expected a whole number of at least 1"),
        ({"batch_size": []}, "batch_size is empty"),
        ({"dtype": []}, "dtype is empty"),
        ({"dtype": ["bfloat61"]}, "Did you mean bfloat16"),
        ({"threads": 0}, "threads is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"seconds": 0}, "seconds is 0"),
        ({"peers": ["tim"]}, "no peer 'tim'. Did you mean timm"),
    ):
        with pytest.raises((ConfigError, UnknownNameError), match=said.replace("'", ".")):
            make_plan(**arguments | wrong)
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    said = make_plan(**arguments | {"threads": 1000}).warnings
    assert [line.split(" (")[0][:18] for line in said] == ["1000 threads share", "the machine was bu"]
    monkeypatch.setattr("swinkit.bench.runtimes.find_spec", lambda name: None if name in ("onnx", "openvino") else True)
    with pytest.raises(ConfigError, match=r"openvino is not installed; install it with: pip install 'swinkit\[bench\]'"):
        make_plan(**arguments | {"peers": "openvino"})
    able, absent = chosen("auto", compile=True)
    assert set(absent) == {"openvino", "onnxruntime"}
    assert [runtime.name for runtime in able if runtime.compiles] == ["swinkit compiled", "timm compiled"]


def test_models_that_cannot_be_measured(monkeypatch, tmp_path):
    for wrong, error in (("swin_tiny", UnknownNameError), (torch.nn.Linear(1, 1), InputError), (tmp_path, CheckpointError)):
        with pytest.raises(error):
            resolve(wrong, None)
    with pytest.raises(ConfigError, match=r"swinkit\.resize"):
        resolve(small(), 64)
    monkeypatch.setattr("swinkit.bench.subject.free_memory", lambda: 1 << 20)
    with pytest.raises(ConfigError, match=r"A batch of 4096 images takes at least 0\.\d GiB with this model, and 0\.0 GiB are free"):
        check_memory(small(), 4096)
    check_memory(small(), 1)
    net = small()
    torch.nn.init.constant_(net.head.weight, float("nan"))
    with pytest.raises(InputError, match="not finite"):
        Subject(net, tmp_path).lay_out(1)


@pytest.mark.skipif(not STATUS.is_file(), reason="elsewhere the peak is that of the whole life of the process")
def test_memory_counts_from_before_the_model():
    reset_peak()
    before, size = peak(), 96 << 20
    np.ones(2 * size, np.uint8)
    weights = np.ones(size, np.uint8)
    station = Station(Engine(lambda: [np.ones(size, np.uint8)], "takes memory twice"), before)
    station.outputs("/dev/null")
    assert station.time(1)["peak"] == pytest.approx(2 * size, rel=0.1)
    assert len(weights) == size


@pytest.mark.parametrize(("name", "size", "layout"), [("openvino", 28, "timm"), ("onnxruntime", 30, "native")])
@pytest.mark.filterwarnings("ignore")
def test_what_reads_a_file_computes_the_same(name, size, layout, tmp_path):
    """At 30 pixels the windows are padded, which timm does in another way, so that swinkit's own model is exported."""
    runtime = next(runtime for runtime in RUNTIMES if runtime.name == name)
    for package in runtime.packages:
        pytest.importorskip(package)
    subject = Subject(resolve("swin_pico_patch2_window7_28", size)[0], tmp_path)
    subject.lay_out(2)
    found, weights = models._weights(subject, runtime)
    assert found == layout
    job = Job(name, runtime.build, layout, str(weights), str(subject.images), "float32", 2, 1, export=runtime.export)
    build(replace(job, build=runtime.export))
    station = build(job)
    assert f"{'timm' if layout == 'timm' else 'swinkit'}'s model" in station.says
    assert 0 < subject.difference(list(station.engine.call())) < 1e-5


def test_a_file_is_exported_once_in_another_process(fake, monkeypatch):
    reads = Runtime("reads", "a:read", export="a:export")
    monkeypatch.setattr("swinkit.bench.runtimes.RUNTIMES", (reads, OURS[1]))
    swinkit.bench.model(SwinConfig(**SMALL), **QUICK | {"dtype": ["float32", "bfloat16"], "rounds": 1})
    events = [what for who, what in fake.log if who == "reads"]
    assert events == ["export", "close", *(cell := ["start", "outputs", "warm", "time", "close"]), *cell]


JOB = Job("x", "no:module", "native", "", "", "float32", 1, 1)


def test_a_worker_that_dies_is_a_sentence(monkeypatch):
    for code, said in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by the system, most likely for its memory"),
        ("import sys; sys.exit('no library')", "ended with 1: no library"),
        ('print(\'{"error": "DefaultCPUAllocator: can\\\'t allocate memory: 1", "kind": "RuntimeError"}\')', "not enough memory"),
        ('print(\'{"error": "one\\\\ntwo", "kind": "ValueError"}\')', "^ValueError: one$"),
    ):
        monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", code))
        with pytest.raises(WorkerError, match=said):
            Worker(JOB)
    assert "memory" in explained("MemoryError", "")
    assert models.Interrupted(example(rows=())).args == ("Nothing was measured yet.",)
