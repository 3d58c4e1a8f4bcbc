"""Tables through the command line: the runs, the five files, MLflow, and the second time in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test_cli import seqmtl

pytestmark = pytest.mark.slow

FILES = ["report.html", "table.csv", "table.json", "table.md", "table.tex"]
SMALL = ("trainer.max_epochs=1", "trainer.max_batches=3", "trainer.threads=1", "launcher=parallel")
SIM = {
    "aliccp_sim": ("dataset.prepare.simulate.train_rows=3000", "dataset.prepare.simulate.test_rows=1000"),
    "finance_sim": ("dataset.prepare.simulate.rows=6000",),
    "ecommerce_sim": ("dataset.prepare.simulate.rows=3000",),
}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_table_is_made_and_made_again_without_a_run(tmp_path: Path) -> None:
    words = ("table", "aitm_table2", "dataset=aliccp_sim", "seeds=1,2,3", *SIM["aliccp_sim"], *SMALL)
    done = seqmtl(tmp_path, *words, timeout=900)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "tables" / "aitm_table2" / "public"
    assert files(folder) == FILES
    content = json.loads((folder / "table.json").read_text())
    (part,) = content["parts"]
    assert [row["label"] for row in part["table_rows"]] == ["LightGBM", "MLP", "ESMM", "OMoE", "MMoE", "PLE", "AITM"]
    assert all(len(row["cells"]["click.auc"]["values"]) == 3 for row in part["table_rows"])
    assert part["table_rows"][-1]["cells"]["purchase.auc"]["published"]["value"] == 0.6525
    assert part["table_rows"][-1]["cells"]["click.auc"]["seeds_test"]["p"] is not None
    assert part["oracle"]["click.auc"] > 0.6
    assert "0.6525 ± 0.0024" in done.stdout
    again = seqmtl(tmp_path, *words, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "21 jobs: 21 finished before, 0 to run" in again.stdout
    assert files(folder) == FILES, "the same table replaces itself"
    numbers = json.loads((folder / "table.json").read_text())["parts"]
    assert numbers == content["parts"]
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("tables").experiment_id])
    assert sorted(artifact.path for artifact in client.list_artifacts(run.info.run_id)) == FILES


def test_a_failed_seed_is_told_in_place_and_by_the_exit_status(tmp_path: Path) -> None:
    (tmp_path / "mine" / "table").mkdir(parents=True)
    (tmp_path / "mine" / "table" / "own.yaml").write_text(
        "title: Our own\nseeds: [1]\nrows:\n  good: [model=mmoe]\n  bad: [model=mmoe, optimizer.lr=1e30]\n  none: [model=din]\n"
        "parts:\n  one:\n    datasets: [aliccp_sim]\n    columns: [click.auc]\n"
    )
    done = seqmtl(tmp_path, "table", "--config-dir", "mine", "own", *SIM["aliccp_sim"], *SMALL, timeout=600)
    assert done.returncode == 1
    said = (tmp_path / "outputs" / "tables" / "own" / "table.md").read_text()
    assert "no seed finished; seed 1 failed: " in said
    assert "reads histories" in said
    assert "missing: one: bad, seed 1: failed: " in done.stdout


def test_rows_that_a_word_makes_the_same_run_are_refused(tmp_path: Path) -> None:
    done = seqmtl(tmp_path, "table", "dtrn_table7", "seeds=1", "model/trunk=mmoe", *SIM["ecommerce_sim"], timeout=300)
    assert done.returncode == 1
    assert "would be the same run; leave out the word" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_replay_and_statistics_of_the_data(tmp_path: Path) -> None:
    done = seqmtl(tmp_path, "table", "aitm_table3", "seeds=1", *SIM["finance_sim"], *SMALL, timeout=600)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "outputs" / "tables" / "aitm_table3" / "table.md").read_text()
    assert "oracle vs AITM" in said
    assert "16.95" in said
    assert "95 % interval" in said
    done = seqmtl(tmp_path, "table", "dtrn_table1", "dataset=ecommerce_sim", *SIM["ecommerce_sim"], timeout=300)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "outputs" / "tables" / "dtrn_table1" / "ecommerce" / "table.json").read_text())
    assert [row["label"] for row in content["parts"][0]["table_rows"]] == ["watch", "non_watch", "click", "non_click", "entering"]
