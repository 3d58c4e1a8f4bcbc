"""`seqmtl compare`: which runs are meant, what is refused, and what it says of models whose difference is known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.metrics import log_loss, roc_auc_score

from conftest import write_dataset
from seqmtl import compare
from seqmtl.data.meta import data_version, read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.runs import Run, run_directory
from seqmtl.tables.comparison import METRICS, Measured, sentence
from seqmtl.tables.content import Comparison
from seqmtl.tables.predictions import labels, probability

TASKS = ("click", "purchase")
Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path, dataset: Path, compose: Any, monkeypatch: pytest.MonkeyPatch) -> Make:
    """make("model=mmoe", "seed=2", noise=0.5) → a finished run in outputs/ that knows the labels up to that noise."""
    monkeypatch.chdir(tmp_path)

    def made(*overrides: str, noise: float = 1.0, state: str = "finished", data: Path = dataset, shift: float = 0.0) -> Run:
        # The tiny dataset names its users otherwise.
        config = compose("dataset=aliccp_sim", *(word for word in overrides if not word.startswith("seed=")))
        config["seed"] = next((int(word[5:]) for word in overrides if word.startswith("seed=")), 1)
        config["dataset"]["user"] = "user"
        config |= {"output_dir": str(tmp_path / "outputs"), "data_dir": str(data.parent)}
        config["dataset"]["name"] = data.name
        run = Run(run_directory(config))
        run.path.mkdir(parents=True)
        (run.path / "config.yaml").write_text(yaml.safe_dump(config))
        meta = read_meta(data)
        if state != "finished":
            run.write_status(state, data_version=data_version(data, meta))
            return run
        tasks = config["dataset"]["tasks"]
        truth = labels(data, meta, tasks, None)
        rng = np.random.default_rng([config["seed"], round(noise * 100)])
        logits = (truth.y + noise * rng.normal(size=truth.y.shape) + shift).astype(np.float32)
        np.save(run.path / "test_logits.npy", logits)
        p = probability(logits)
        values = {f"test/auc/{task}": roc_auc_score(truth.y[:, t], logits[:, t]) for t, task in enumerate(tasks)}
        values |= {f"test/logloss/{task}": log_loss(truth.y[:, t], p[:, t]) for t, task in enumerate(tasks)}
        (run.path / "metrics.json").write_text(json.dumps(values))
        run.write_finished(data_version(data, meta), {})
        return run

    return made


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert compare.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_better_model_is_found_out_by_every_test(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    runs = {
        model: [make(f"model={model}", f"seed={s}", noise=noise) for s in (1, 2, 3)] for model, noise in (("mmoe", 2), ("ple", 0.5))
    }
    found = answer(capsys, "mmoe", "ple")
    assert (found["a"]["name"], found["b"]["name"]) == ("mmoe/bce", "ple/bce")
    assert [run["seed"] for run in found["a"]["runs"]] == [1, 2, 3]
    assert (found["dataset"], found["rows"], found["clusters"]) == ("aliccp_sim", 300, "44 users (field user)")
    for task in TASKS:
        for metric, (_, better) in METRICS.items():
            one = found["tasks"][task][metric]
            for side, model in (("a", "mmoe"), ("b", "ple")):
                values = [run.metrics()[f"test/{metric}/{task}"] for run in runs[model]]
                assert one[side]["values"] == {str(s): v for s, v in zip((1, 2, 3), values, strict=True)}
                assert one[side]["mean"] == pytest.approx(np.mean(values))
                assert one[side]["std"] == pytest.approx(np.std(values, ddof=1))
            assert one["difference"] == pytest.approx(one["b"]["mean"] - one["a"]["mean"], abs=1e-6)
            assert one["difference"] * better > 0.05
            assert one["tests"].keys() == {"rows", "bootstrap", "seeds"}
            for test in one["tests"].values():
                assert test["p"] <= test["adjusted"] < 0.05, test
                assert min(map(abs, test["interval"])) > 0
                assert (test["interval"][0] > 0) == (test["interval"][1] > 0) == (better > 0)
            assert "44 users" in one["tests"]["rows"]["method"]
            assert one["says"].startswith(f"ple/bce has the {'higher AUC' if better > 0 else 'lower LogLoss'} than mmoe/bce, by 0.")
            assert "if both are trained again (over 3 seeds, p" in one["says"]
    turned = answer(capsys, "ple", "mmoe", "--repeats", "0")
    assert turned["tasks"]["click"]["auc"]["difference"] == -found["tasks"]["click"]["auc"]["difference"]
    assert turned["tasks"]["click"]["auc"]["says"] == found["tasks"]["click"]["auc"]["says"]


def test_as_good_a_model_is_not_called_better(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("model=mmoe", noise=1.0)
    make("model=ple", noise=1.01)
    found = answer(capsys, "mmoe", "ple", "--repeats", "0", "--user", "none")
    assert found["clusters"] == "rows"
    one = found["tasks"]["click"]["auc"]
    assert one["tests"]["bootstrap"] is None
    assert one["tests"]["seeds"]["p"] is None
    assert one["tests"]["seeds"]["note"] == "1 common seed; 3 are needed"
    assert "300 rows" in one["tests"]["rows"]["method"]
    assert one["says"].startswith("no difference in AUC can be told on other rows (p = ")


def test_the_table_and_the_sentences(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("model=mmoe", "seed=1", noise=2)
    make("model=mmoe", "seed=2", state="failed")
    make("model=ple", "seed=1", "dataset.tasks=[purchase]", noise=0.5)
    assert compare.main(["mmoe", "ple/bce"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("A: mmoe/bce, seed 1  (")
    assert "left out: seed=2 is failed" in said
    assert "aliccp_sim, 300 test rows, 44 users (field user); data " in said
    assert "only one of the two has the task click" in said
    assert "p by users" in said
    assert "purchase: ple/bce has the higher AUC than mmoe/bce" in said
    assert "takes three seeds of both (1 common seed; 3 are needed)" in said
    assert "Holm" not in said, "one task"


def test_runs_and_configs_are_named_in_many_ways(make: Make, tmp_path: Path) -> None:
    mmoe = make("model=mmoe", "seed=1")
    make("model=mmoe", "seed=2")
    ple = make("model=ple", "seed=1")
    config = mmoe.path.parent
    output = tmp_path / "outputs"
    words = ["mmoe", "mmoe/bce", "mmoe/bce/plain", config.name, config.name[-8:], str(config), f"aliccp_sim/{config.name}"]
    for word in [*words, f"outputs/aliccp_sim/{config.name}"]:
        a, b = compare.sides(word, str(ple.path), output)
        assert (a.place, list(a.runs), b.place) == (config, [1, 2], ple.path), word
    a, _ = compare.sides(str(mmoe.path), "ple", output)
    assert (a.place, list(a.runs)) == (mmoe.path, [1])
    a, b = compare.sides(str(config / "seed=1"), str(config / "seed=2"), output)
    assert (list(a.runs), list(b.runs)) == ([1], [2])


def test_a_name_of_several_configs(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("model=mmoe")
    wide = make("model=mmoe", "model.dim=7", noise=0.5)
    make("model=mmoe", "model.dim=7", "seed=2", noise=0.5)
    make("model=ple")
    with pytest.raises(SeqmtlError) as raised:
        compare.main(["mmoe", "ple"])
    said = str(raised.value)
    assert "mmoe could be 2 configs; say which by its directory" in said
    assert str(wide.path.parent) in said
    assert "mmoe/bce dim=7: 2 finished" in said
    found = answer(capsys, "mmoe/bce dim=7", str(next(p for p in wide.path.parents[1].glob("mmoe*") if p != wide.path.parent)))
    assert (found["a"]["name"], found["b"]["name"]) == ("mmoe/bce dim=7", "mmoe/bce dim=5")
    other = write_dataset(tmp_path / "data" / "tenrec_sim", seed=3)
    make("model=mmoe", "dataset.transfer=null", data=other)
    with pytest.raises(SeqmtlError, match="mmoe could be 3 configs; say which: --dataset NAME"):
        compare.sides("mmoe", "mmoe", tmp_path / "outputs")
    with pytest.raises(SeqmtlError, match="mmoe could be 2 configs"):
        compare.sides("mmoe", "ple", tmp_path / "outputs")
    make("model=aitm", data=other)
    a, b = compare.sides("mmoe", "aitm", tmp_path / "outputs")
    assert (a.place.parents[1], b.place.parents[1]) == (tmp_path / "outputs" / "tenrec_sim",) * 2, "the only dataset that both have"


def test_runs_of_other_data_are_refused(make: Make, dataset: Path, tmp_path: Path) -> None:
    make("model=mmoe", "seed=1")
    make("model=mmoe", "seed=2")
    other = write_dataset(tmp_path / "data" / "tenrec_sim", seed=3)
    make("model=aitm", data=other)
    output = tmp_path / "outputs"
    with pytest.raises(SeqmtlError, match=r"two datasets cannot be compared: mmoe of aliccp_sim and aitm of tenrec_sim"):
        compare.sides("mmoe", "aitm", output)
    shutil.rmtree(dataset)
    write_dataset(dataset, seed=9)
    make("model=ple", "seed=1")
    with pytest.raises(SeqmtlError, match=r"mmoe and ple are of two versions of aliccp_sim"):
        compare.sides("mmoe", "ple", output)
    make("model=mmoe", "seed=3")
    with pytest.raises(SeqmtlError, match=r"seeds of mmoe are of different versions of the data: seed=1 of \w{8}, seed=2"):
        compare.sides("mmoe", "ple", output)


def test_data_that_are_gone_or_new(make: Make, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = json.loads((dataset / "meta.json").read_text())
    (dataset / "meta.json").write_text(json.dumps(meta | {"checksum": "a" * 64}))
    make("model=mmoe")
    make("model=ple")
    (tmp_path / "moved").mkdir()
    dataset.rename(tmp_path / "moved" / "aliccp_sim")
    with pytest.raises(
        SeqmtlError, match=r"the data of these runs are not in .*aliccp_sim; say where they lie now: --data-dir DIR"
    ):
        compare.main(["mmoe", "ple"])
    found = answer(capsys, "mmoe", "ple", "--data-dir", "moved", "--repeats", "100")
    assert found["data_version"] == "a" * 64
    (tmp_path / "moved" / "aliccp_sim" / "meta.json").write_text(json.dumps(meta | {"checksum": "b" * 64}))
    with pytest.raises(SeqmtlError, match="holds another version of the data than these runs are of"):
        compare.main(["mmoe", "ple", "--data-dir", "moved"])


def test_what_cannot_be_compared(make: Make, tmp_path: Path) -> None:
    output = tmp_path / "outputs"
    with pytest.raises(SeqmtlError, match=r"there is no directory outputs; say where the runs lie: --output-dir DIR"):
        compare.main(["mmoe", "ple"])
    make("model=mmoe", "seed=1", state="running")
    make("model=mmoe", "seed=2", state="failed")
    make("model=ple", "dataset.tasks=[click]")
    make("model=esmm", "dataset.tasks=[purchase]")
    with pytest.raises(SeqmtlError, match=r"mmoe has no finished run in .* \(seed=1 is interrupted, seed=2 is failed\)"):
        compare.sides("mmoe", "ple", output)
    with pytest.raises(
        SeqmtlError, match=r"aitm is no run directory, and no run is named so; there are esmm/bce, mmoe/bce, ple/bce"
    ):
        compare.sides("ple", "aitm", output)
    with pytest.raises(SeqmtlError, match="there are no runs of dataset tenrec"):
        compare.sides("ple", "mmoe", output, "tenrec")
    with pytest.raises(SeqmtlError, match="ple and ple/bce are the same: "):
        compare.sides("ple", "ple/bce", output)
    with pytest.raises(SeqmtlError, match="ple and esmm have no task in common"):
        compare.main(["ple", "esmm"])
    with pytest.raises(SeqmtlError, match="--repeats must be at least 100"):
        compare.main(["ple", "esmm", "--repeats", "10"])
    with pytest.raises(SeqmtlError, match=r"dataset\.user=colour is no field"):
        compare.main(["ple", str(make("model=omoe").path), "--user", "colour"])


def test_a_model_that_diverged_is_named(make: Make) -> None:
    make("model=mmoe")
    run = make("model=ple")
    np.save(run.path / "test_logits.npy", np.full((300, 2), np.nan, np.float32))
    with pytest.raises(SeqmtlError, match=r"ple-bce-\w+/seed=1 predicts no numbers for click: it diverged"):
        compare.main(["mmoe", "ple"])


def measured(
    rows_p: float | None, seeds_p: float | None, value: float = 0.01, bootstrap_p: float | None = None, metric: str = "auc"
) -> Measured:
    def test(p: float | None, method: str, note: str) -> Comparison:
        interval = None if p is None else (value - 0.005, value + 0.005)
        return Comparison("old", value, interval, p, None, method, "" if p is not None else note)

    seeds = test(seeds_p, "paired t-test over 5 seeds", "2 common seeds; 3 are needed")
    other = None if bootstrap_p is None else test(bootstrap_p, "bootstrap", "")
    return Measured("click", metric, {}, {}, test(rows_p, "DeLong", "the rows have one class only"), other, seeds)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            measured(0.0001, 0.01),
            "new has the higher AUC than old, by 0.0100 (95 % 0.0050 to 0.0150), on other users too (p < 0.001),"
            " and if both are trained again (over 5 seeds, p = 0.010).",
        ),
        (
            measured(0.02, 0.4, -0.01),
            "old has the higher AUC than new, by 0.0100 (95 % 0.0050 to 0.0150), on other users too (p = 0.020);"
            " but of these trained models only: their seeds do not tell them apart (over 5 seeds, p = 0.400).",
        ),
        (
            measured(0.02, None, 0.01, 0.2, "logloss"),
            "old has the lower LogLoss than new, by 0.0100 (95 % 0.0050 to 0.0150), on other users too (p = 0.020); of these"
            " trained models: that it is so if they are trained again takes three seeds of both (2 common seeds; 3 are needed);"
            " the bootstrap, which assumes less, does not confirm it (p = 0.200).",
        ),
        (
            measured(0.2, 0.01, 0.001),
            "no difference in AUC can be told on other users (p = 0.200); B - A is within -0.0040 and +0.0060; on these very rows"
            " new is better whichever the seed (over 5 seeds, p = 0.010).",
        ),
        (
            measured(0.2, 0.2, 0.001),
            "no difference in AUC can be told on other users (p = 0.200); B - A is within -0.0040 and +0.0060.",
        ),
        (measured(None, 0.01), "AUC cannot be compared: the rows have one class only."),
    ],
)
def test_what_is_said(given: Measured, says: str) -> None:
    assert sentence(given, ("old", "new"), "users") == says


def test_help_imports_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        compare.main(["--help"])
    assert raised.value.code == 0
    assert "--repeats" in capsys.readouterr().out
