"""The command line, as a user meets it: mistakes, interruptions, two at once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.artefacts import ARTEFACTS
from experiments.engine.assignments import changed
from experiments.engine.log import note
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, TrainSpec
from experiments.run import chosen

ROOT = Path(__file__).parents[2]
# fig1c at `demo`, one seed: two trainings and two evaluations.
CHANGES = {"seed": "0", "epochs": "4", "warmup_epochs": "1", "width": "2", "batch_size": "500"}


def settings(**more: str) -> list[str]:
    return ["--set", *(f"{field}={value}" for field, value in {**CHANGES, **more}.items())]


def specs(artefact: str = "fig1c", **more: str) -> list:
    """What `run` of the artefact with these settings runs."""
    found = {}
    for spec in ARTEFACTS[artefact].specs("demo"):
        train = changed(spec if isinstance(spec, TrainSpec) else spec.train, {**CHANGES, **more})
        new = train if isinstance(spec, TrainSpec) else spec.model_copy(update={"train": train})
        found[new.id] = new
    return list(found.values())


def start(*arguments: object, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=100)
    assert "Traceback" not in err
    return process.returncode, out, err


def run(runs: Path, *arguments: object, **more: str) -> tuple[int, str, str]:
    return wait(start("run", "fig1c", "--runs", runs, "--device", "cpu", *arguments, *settings(**more)))


def results(runs: Path, which: list) -> list[str]:
    found = []
    for spec in which:
        record = Store(runs).done(spec)
        assert record, f"{spec.label} is not done"
        del record["result"]["seconds"]
        found.append(repr(record["result"]))
    return found


def events(runs: Path, spec) -> list[dict]:
    log = Store(runs).folder(spec) / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def wait_until(true, *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def in_process(tmp_path):
    """The results of these runs, computed here, without launcher and worker."""

    def compute(which: list) -> list[str]:
        import torch

        from experiments.engine.distributed import single
        from experiments.engine.execute import execute
        from experiments.engine.watch import Watch

        torch.set_num_threads(1)
        store = Store(tmp_path / "in process")
        for spec in which:
            assert execute(spec, store, single(torch.device("cpu")), Watch()).end == "done"
        return results(store.root, which)

    return compute


# --- mistakes: one line on standard error, no traceback, nothing started


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["runn"], ["runn", "run"]),
        (["run"], ["artefact"]),
        (["run", "tabel1"], ["unknown artefact 'tabel1'", "'table1'"]),
        (["run", "table1", "--scale", "dmeo"], ["unknown scale 'dmeo'", "'demo'"]),
        (["run", "tuning", "--scale", "paper"], ["unknown scale 'paper'", "demo"]),
        (["run", "table1", "--only", "modell=resnet20"], ["--only modell=resnet20", "'model'"]),
        (["run", "table1", "--only", "seed"], ["--only seed", "FIELD=VALUE"]),
        (["run", "table1", "--only", "seed=7"], ["--only seed=7", "known: 0, 1"]),
        (["run", "table1", "--only", "seed.x=7"], ["--only seed.x=7", "'seed'"]),
        (["run", "table7", "--only", "kind=costs"], ["--only kind=costs", "did you mean 'cost'"]),
        (["run", "table1", "--set", "epoch=3"], ["'epoch'", "'epochs'"]),
        (["run", "table1", "--set", "method.momentun=0.5"], ["'momentun'"]),
        (["run", "table1", "--set", "epochs=-3"], ["epochs", "-3"]),
        (["run", "table1", "--set", "epochs=few"], ["epochs", "few"]),
        (["run", "table1", "--set", "epochs"], ["epochs", "FIELD=VALUE"]),
        (["run", "table1", "--set", "epochs=3", "--set", "widht=2"], ["'widht'", "'width'"]),
        (["run", "table1", "--set", "widht=2", "--set", "epochs=3"], ["'widht'", "'width'"]),
        (["run", "table1", "--set", "epochs=3", "epochs=4"], ["epochs=4", "set to 3 already"]),
        (["run", "table1", "--set", "kind=evaluate"], ["--set kind=evaluate"]),
        (["plan", "fig3c", "--only", "method=hmc"], ["--only method=hmc", "kind="]),
        (["plan", "table1", "--processes", "0"], ["--processes 0", "at least 1"]),
        (["plan", "table1", "--processes", "3"], ["--processes 3", "batch_size 50"]),
        (["plan", "table1", "--cluster", "mine"], ["--cluster", "--executor slurm"]),
        (["run", "table1", "--set", "dataset=digitz"], ["dataset", "digitz", "digits"]),
        (["run", "table3", "--set", "dataset=cifar10"], ["outside 'photos'", "'cifar10'"]),
        (["run", "table1", "--set", "model=resnet21"], ["model", "resnet21", "resnet20"]),
        (["run", "table1", "--jobs", "0"], ["--jobs 0", "at least 1"]),
        (["run", "table1", "--jobs", "two"], ["--jobs", "two"]),
        (["run", "table1", "--processes", "0"], ["--processes 0"]),
        (["run", "table1", "--processes", "3"], ["--processes 3", "batch_size 50"]),
        (["run", "table8", "--processes", "2"], ["--processes 2", "adahessian", "one device only"]),
        (["run", "table1", "--checkpoint-seconds", "0"], ["--checkpoint-seconds 0"]),
        (["run", "table1", "--checkpoint-seconds", "nan"], ["--checkpoint-seconds nan"]),
        (["run", "table1", "--device", "tpu"], ["--device", "tpu", "cpu"]),
        (["run", "table1", "--runs", "/proc/version/runs"], ["/proc/version/runs", "not writable"]),
        (["run", "table1", "--runs", "/proc/runs"], ["/proc/runs", "not writable"]),
        (["run", "table1", "--wrong"], ["--wrong"]),
        (["plan", "tabel1"], ["'table1'"]),
        (["status", "tabel1"], ["'table1'"]),
        (["render", "tabel1"], ["'table1'"]),
        (["render", "all"], ["no finished run"]),
        (["render", "all", "--scale", "dmeo"], ["unknown scale 'dmeo'", "'demo'"]),
        (["publish", "tabel1"], ["'table1'"]),
        (["publish", "table1"], ["table1", "nothing to publish"]),
        (["sample", "**"], ["'**'"]),
        (["sample", "3a", "--temperature", "nan"], ["--temperature nan"]),
        (["sample", "3a", "--prompt", "caf\udce9"], ["--prompt 'caf\\udce9': must be UTF-8"]),
        (["verify", "--scale", "huge"], ["unknown scale 'huge'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistake_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    runs = tmp_path / "runs"
    monkeypatch.setenv("IVON_RUNS", str(runs))
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: ")
    for word in words:
        assert word in said.err, said.err
    assert not runs.exists()


def test_more_processes_than_gpus_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    asked = ["run", "table1", "--runs", str(tmp_path / "runs"), "--device", "cuda", "--processes", "5"]
    assert main(asked) == 2
    assert capsys.readouterr().err == (
        "error: --processes 5: each needs a GPU of its own, and 2 can be seen\n"
    )
    assert not (tmp_path / "runs").exists()


def test_missing_imagenet_says_what_where_and_how(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IVON_DATA", str(tmp_path / "data"))
    assert main(["run", "table1", "--scale", "paper", "--runs", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "ImageNet" in said.err
    assert str(tmp_path / "data") in said.err
    assert "http" in said.err or "IVON_DATA" in said.err
    assert main(["plan", "table1", "--scale", "paper", "--runs", str(tmp_path / "runs")]) == 0
    assert "data: ImageNet, " in capsys.readouterr().out


def test_plan_of_chosen_and_changed_runs(tmp_path, capsys):
    asked = ["plan", "fig1a", "--scale", "paper", "--runs", str(tmp_path), "--only", "model=gpt2-large"]
    assert main([*asked, "method=ivon", "--set", "sharded=true", "method.sync=false"]) == 0
    assert "trainings: 1 to do" in capsys.readouterr().out
    assert main([*asked, "--set", "sharded=true"]) == 2
    assert "sharded true needs method.sync false" in capsys.readouterr().err


def test_a_field_asked_for_twice_may_have_either_value(tmp_path, capsys):
    assert main(["plan", "table1", "--runs", str(tmp_path), "--only", "seed=0", "seed=1", "method=sgd"]) == 0
    assert "trainings: 2 to do" in capsys.readouterr().out
    assert main(["plan", "table1", "--runs", str(tmp_path), "--only", "kind=train", "seed=0"]) == 0
    assert "evaluations: 0 to do, 0 of 0" in capsys.readouterr().out


def test_broken_record_is_one_line_with_a_remedy(tmp_path, capsys):
    store = Store(tmp_path)
    spec = ARTEFACTS["table1"].specs("demo")[0]
    store.path(spec).parent.mkdir()
    store.path(spec).write_text("{")
    assert main(["status", "table1", "--runs", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert f"{spec.id}  damaged: record " in said.out
    assert said.err.count("\n") == 1
    assert str(store.path(spec)) in said.err
    assert "remove it" in said.err


def test_render_before_the_first_run_is_one_line(tmp_path, capsys):
    assert main(["render", "table1", "--runs", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("log", "state"),
    [
        ("", "waiting"),
        ('{"event": "started", "time": 1}\n', "waiting"),
        (
            '{"event": "started", "time": 1}\n{"event": "failed", "time": 2, "why": "RuntimeError: no"}\n',
            "failed: RuntimeError: no",
        ),
        ('{"event": "failed", "time": 1, "why": "no"}\n{"event": "started", "time": 2}\n', "waiting"),
        ('{"event": "failed", "why": "no"}\n[]\n', "waiting"),  # not written by this program
        ('{"event": "sta', "waiting"),  # the disk was full
        ('{"event": "failed", "time": 1}\n', "failed: its log does not say why"),
        ('{"event": "failed", "time": "now", "why": "no"}\n', "waiting"),
        ('{"event": "failed", "time": 1e999, "why": "no"}\n', "waiting"),
        ('{"event": "failed", "time": 1, "why": ["no"]}\n', "waiting"),
        ("[" * 200_000 + "\n", "waiting"),
        ('{"event": "failed", "time": 1, "why": "first"}\n' + "[" * 200_000 + "\n", "failed: first"),
    ],
)
def test_status_reads_the_log(log, state, tmp_path, capsys):
    store = Store(tmp_path)
    spec = ARTEFACTS["fig1b"].specs("demo")[0]
    store.folder(spec).mkdir(parents=True)
    (store.folder(spec) / "log.jsonl").write_text(log)
    assert main(["status", "fig1b", "--runs", str(tmp_path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(spec.id)]
    assert f"  {state} " in line


def test_changed_runs_have_a_state_and_a_log(tmp_path, capsys):
    train, other = (spec for spec in specs("fig1b") if isinstance(spec, TrainSpec) and spec.seed == 0)
    folder = Store(tmp_path).folder(train)
    note(folder, "started", spec=train.model_dump(mode="json"))
    note(folder, "failed", why="RuntimeError: no")
    where = ["--runs", str(tmp_path)]
    assert main(["status", "fig1b", "--only", "seed=0", *settings(), *where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{train.id}  failed: RuntimeError: no") for line in lines)
    assert any(line.startswith(f"{other.id}  waiting") for line in lines)
    assert lines[-1] == "1 failed, 1 waiting"
    assert main(["logs", train.id[:9], *where]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{train.label}: failed: RuntimeError: no"
    assert json.loads(shown[1]) == train.model_dump(mode="json")
    assert main(["logs", other.id, *where]) == 2  # has not begun, and is of no artefact


@pytest.mark.parametrize("out", ["closed", pytest.param("full", marks=pytest.mark.slow)])
def test_output_that_cannot_be_written(out, tmp_path):
    """`| head -1` is quiet; a full disk is one line."""
    if out == "full":
        with Path("/dev/full").open("w") as full:
            process = subprocess.run(
                [sys.executable, "-m", "experiments", "list", "--runs", str(tmp_path)],
                cwd=ROOT,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert process.returncode == 1
        assert process.stderr == "error: No space left on device\n"
    else:
        process = start("list", "--runs", tmp_path)
        process.stdout.close()  # before a line can have been written
        assert process.stderr.read() == ""
        assert process.wait() == 0
        process.stderr.close()


def test_changed_runs_do_not_enter_a_table():
    table = {spec.id for spec in ARTEFACTS["fig1c"].specs("demo")}
    assert len(specs()) == 4
    assert not table & {spec.id for spec in specs()}


def test_only_some_of_the_runs():
    all_of_them = ARTEFACTS["fig1c"].specs("demo")
    left = chosen(all_of_them, ["method=adamw", "seed=0"])
    trainings = [(spec.trainings[0].method.name, spec.trainings[0].seed) for spec in all_of_them]
    assert [spec.id for spec in left] == [
        spec.id for spec, of in zip(all_of_them, trainings, strict=True) if of == ("adamw", 0)
    ]
    assert left


@pytest.mark.parametrize(
    ("artefact", "only", "kinds"),
    [
        ("table7", ["kind=cost"], {"cost"}),
        ("table3", ["kind=ood", "method=sgd"], {"ood", "evaluate", "train"}),  # with what they need
        ("table6", ["kind=language"], {"cost"}),  # of trainings of that kind
        ("fig3c", ["kind=regression"], {"regression"}),  # about no training
    ],
)
def test_only_runs_of_a_kind(artefact, only, kinds):
    left = chosen(ARTEFACTS[artefact].specs("demo"), only)
    assert {spec.kind for spec in left} == kinds
    assert {needed.id for spec in left for needed in spec.requires} <= {spec.id for spec in left}


# --- a run whose loss stops being finite


def test_diverged_run_is_neither_repeated_nor_evaluated(tmp_path, capsys, in_process):
    """Its record is there from an earlier call; the other runs are done."""
    import torch

    from experiments.engine.distributed import single
    from experiments.engine.execute import execute
    from experiments.engine.watch import Watch

    settings_ = {**CHANGES, "method.lr": "1e30", "warmup_epochs": "0"}
    train = changed(ARTEFACTS["fig1b"].specs("demo")[0], settings_)
    store = Store(tmp_path / "runs")
    outcome = execute(train, store, single(torch.device("cpu")), Watch())
    assert (outcome.end, outcome.why) == ("failed", "loss is not finite in epoch 0, step 1")
    record = store.load(train)
    assert (record["failure"]["epoch"], record["failure"]["step"]) == (0, 1)
    assert store.done(train) is None

    pairs = [f"{field}={value}" for field, value in settings_.items()]
    other = changed(ARTEFACTS["fig1b"].specs("demo")[-1], settings_)
    store.add(other, {"failure": None, "result": {}, "machine": {}})
    assert main(["run", "fig1b", "--runs", str(store.root), "--device", "cpu", "--set", *pairs]) == 1
    said = capsys.readouterr().err
    assert "nothing to run" in said
    (line,) = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert "loss is not finite in epoch 0, step 1" in line
    started, _over = events(store.root, train)
    assert started["spec"] == train.model_dump(mode="json")


# --- real launchers and workers


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_interrupted_by_ctrl_c_and_continued(tmp_path, in_process):
    """Exit code 130 and a checkpoint; the same command ends with the bits that a run in this process has."""
    more = {"epochs": "16"}
    runs, which = tmp_path / "runs", specs("fig1b", **more)
    command = ["run", "fig1b", "--runs", runs, "--device", "cpu", *settings(**more)]
    process = start(*command, "--jobs", 1)
    store = Store(runs)
    wait_until(lambda: (store.folder(which[0]) / "progress.json").exists() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    code, _, err = wait(process)
    assert code == 130, err
    assert "the same command continues" in err.splitlines()[-1]
    assert not store.is_over(which[0])
    assert list(store.folder(which[0]).glob("checkpoint-*.pt"))
    assert events(runs, which[0])[-1]["event"] == "stopped"

    code, _, err = wait(start(*command, "--jobs", 1))
    assert code == 0, err
    assert results(runs, which) == in_process(which)
    assert [e["event"] for e in events(runs, which[0])] == ["started", "stopped", "started", "over"]
    assert main([str(word) for word in command]) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["launcher", "worker"])
def test_killed_again_and_again(victim, tmp_path, in_process):
    """SIGKILL at random moments; checkpoints ten times a second, so that some are hit."""
    more = {"epochs": "25"}
    runs, which = tmp_path / "runs", specs(**more)
    moments = random.Random(victim)

    def count_events() -> int:
        return sum(len(events(runs, spec)) for spec in which)

    kills = 0
    code = None
    for _ in range(40):
        process = start(
            "run",
            "fig1c",
            "--runs",
            runs,
            "--device",
            "cpu",
            "--jobs",
            2,
            "--checkpoint-seconds",
            0.1,
            *settings(**more),
        )
        if kills < 6:
            said = count_events()
            wait_until(lambda p=process, n=said: count_events() > n or p.poll() is not None)
            time.sleep(moments.uniform(0, 1.5))
            pid = process.pid
            if victim == "worker":
                running = [
                    e[-1]["pid"]
                    for spec in which
                    if (e := events(runs, spec)) and e[-1]["event"] == "started"
                ]
                pid = moments.choice(running or [pid])
            try:
                os.kill(pid, signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                pass
        process.communicate(timeout=200)
        code = process.returncode
        if code == 0:
            break
    assert code == 0
    assert kills >= 1
    assert results(runs, which) == in_process(which)
    left = [path.name for path in runs.rglob(".*.tmp")]
    assert len(left) <= len(which)


@pytest.mark.slow
def test_terminated_is_as_interrupted_and_its_workers_end_too(tmp_path):
    more = {"epochs": "1000"}
    process = start("run", "fig1c", "--runs", tmp_path, "--device", "cpu", "--jobs", 2, *settings(**more))
    which = specs(**more)
    wait_until(lambda: all(events(tmp_path, spec) for spec in which if isinstance(spec, TrainSpec)))
    process.terminate()
    code, _, err = wait(process)
    assert code == 128 + signal.SIGTERM, err
    assert "the same command continues" in err
    for spec in which:
        if isinstance(spec, TrainSpec):
            assert list(Store(tmp_path).folder(spec).glob("checkpoint-*.pt"))
            with pytest.raises(ProcessLookupError):
                os.kill(events(tmp_path, spec)[0]["pid"], 0)


@pytest.mark.slow
def test_two_launchers_share_the_runs(tmp_path, in_process):
    more = {"epochs": "10"}
    which = specs(**more)
    command = ["run", "fig1c", "--runs", tmp_path, "--device", "cpu", "--jobs", 1, *settings(**more)]
    both = [start(*command), start(*command)]
    for process in both:
        code, out, err = wait(process)
        assert code == 0, err
        assert out.count("nll") == 2
    for spec in which:
        assert [e["event"] for e in events(tmp_path, spec)] == ["started", "over"]
    assert results(tmp_path, which) == in_process(which)


@pytest.mark.slow
def test_diverged_run_does_not_stop_the_others(tmp_path):
    """AdamW and IVON at an absurd learning rate: whichever of them diverges, the other goes on."""
    code, _, err = run(tmp_path, "--jobs", 2, **{"method.lr": "1e30", "warmup_epochs": "0"})
    assert code == 1
    which = specs(**{"method.lr": "1e30", "warmup_epochs": "0"})
    store = Store(tmp_path)
    failed = [spec for spec in which if store.is_over(spec) and not store.done(spec)]
    assert failed
    assert all(isinstance(spec, TrainSpec) for spec in failed)
    for look in (spec for spec in which if isinstance(spec, EvalSpec)):
        assert (store.done(look) is not None) == (look.train not in failed)
        assert bool(events(tmp_path, look)) == (look.train not in failed)
    assert err.count("failed: ") == len(failed)
    assert "loss is not finite" in err
    started = [len(events(tmp_path, spec)) for spec in failed]

    code, _, err = run(tmp_path, "--jobs", 2, **{"method.lr": "1e30", "warmup_epochs": "0"})
    assert code == 1
    assert "loss is not finite" in err
    assert [len(events(tmp_path, spec)) for spec in failed] == started


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_share_a_training(tmp_path):
    """torchrun over gloo, stopped and continued; the result of one process to rounding."""
    more = {"epochs": "40", "method.lr": "0.001"}
    which = [spec for spec in specs(**more) if isinstance(spec, TrainSpec)]
    runs = tmp_path / "two"
    command = [
        "run",
        "fig1c",
        "--runs",
        runs,
        "--device",
        "cpu",
        "--jobs",
        1,
        "--processes",
        2,
        *settings(**more),
    ]
    process = start(*command)
    wait_until(
        lambda: (Store(runs).folder(which[0]) / "progress.json").exists() or process.poll() is not None
    )
    process.send_signal(signal.SIGINT)
    code, _, err = wait(process)
    assert code == 130, err
    assert list(Store(runs).folder(which[0]).glob("checkpoint-*.pt"))
    code, _, err = wait(start(*command))
    assert code == 0, err
    assert Store(runs).done(which[0])["machine"]["processes"] == 2
    assert Store(runs).done(which[0])["machine"]["attempts"] == 2

    assert run(tmp_path / "one", "--jobs", 2, **more)[0] == 0
    for spec in which:
        one, two = (Store(root).done(spec)["result"]["history"][-1] for root in (tmp_path / "one", runs))
        # float32 sums in another order, grown over 80 steps at a small learning rate.
        assert two["train_nll"] == pytest.approx(one["train_nll"], rel=1e-2)
        assert two["nll"] == pytest.approx(one["nll"], rel=1e-2)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_fails_the_run_and_leaves_no_halves(small_disk):
    import torch

    from experiments.engine.distributed import single
    from experiments.engine.execute import execute
    from experiments.engine.watch import Watch

    spec = next(spec for spec in specs() if isinstance(spec, TrainSpec))
    store = Store(small_disk / "runs")
    store.folder(spec).mkdir(parents=True)
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast.write_bytes(bytes(free - 16384))  # room for the log, not for a checkpoint
    outcome = execute(spec, store, single(torch.device("cpu")), Watch())
    assert outcome.end == "failed"
    assert "No space left on device" in outcome.why
    assert "\n" not in outcome.why
    assert not store.is_over(spec)
    assert not list(small_disk.rglob(".*.tmp"))
    assert not list(small_disk.rglob("checkpoint-*"))

    ballast.unlink()
    assert execute(spec, store, single(torch.device("cpu")), Watch()).end == "done"


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 8192, 100_000])
def test_full_disk_ends_with_a_line_per_run(room, small_disk):
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(bytes(free - room))
    code, out, err = run(small_disk / "runs", "--jobs", 1)
    assert code in (1, 2), err  # 2: already the folder cannot be made
    assert "No space left on device" in err
    assert out == ""
    assert not list(small_disk.rglob(".*.tmp"))
    for path in small_disk.rglob("*.json"):
        if path.name != "progress.json":
            json.loads(path.read_text())
