"""What `seqmtl prepare` does: made once, refused, overwritten, killed, out of disk."""

from __future__ import annotations

import errno
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aliccp_files import small_raw
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from seqmtl.data.meta import SPLITS, read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.prepare import atomic, verb

CONF = str(Path(__file__).parents[2] / "conf")


def config(data_dir: Path, rows: int = 3000, **changes: Any) -> DictConfig:
    """The demo's dataset, smaller; `changes` with __ for dots."""
    simulate = {"_target_": "seqmtl.simulate.aliccp.simulate", "train_rows": rows, "test_rows": 600, "rates": "${dataset.rates}"}
    prepare = {"_target_": "seqmtl.prepare.aliccp.prepare", "min_count": 1, "rows_per_shard": 1000, "simulate": simulate}
    cfg = OmegaConf.create({
        "data_dir": str(data_dir), "raw_dir": None, "overwrite": False, "debug": False,
        "dataset": {"name": "sim", "rates": {"click": 0.2, "purchase": 0.05}, "prepare": prepare},
    })  # fmt: skip
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    return cfg


def real(data_dir: Path, raw_dir: Path, **changes: Any) -> DictConfig:
    cfg = config(data_dir, raw_dir=str(raw_dir), **changes)
    del cfg.dataset.prepare["simulate"]
    return cfg


def left(data_dir: Path) -> list[str]:
    return sorted(p.name for p in data_dir.iterdir()) if data_dir.exists() else []


def test_simulated_data_are_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "3,600 rows, 18 fields" in verb.run(config(tmp_path))
    out = capsys.readouterr().out
    assert "purchase" in out
    assert "rows/s" in out
    meta = read_meta(tmp_path / "sim")
    assert meta.options is not None
    assert meta.options["simulate"]["rates"] == {"click": 0.2, "purchase": 0.05}
    assert left(tmp_path) == ["raw", "sim"]
    assert left(tmp_path / "raw") == ["sim"]
    before = (tmp_path / "sim" / "meta.json").stat().st_mtime_ns
    assert "already prepared with these options" in verb.run(config(tmp_path))
    assert (tmp_path / "sim" / "meta.json").stat().st_mtime_ns == before


def test_the_oracle_of_each_split_belongs_to_its_rows(tmp_path: Path) -> None:
    import polars as pl

    verb.run(config(tmp_path))
    raw = {part: pl.read_parquet(tmp_path / "raw" / "sim" / f"oracle_{part}.parquet") for part in ("train", "test")}
    for split in SPLITS:
        rows = pl.read_parquet(sorted((tmp_path / "sim" / split).glob("*.parquet")))
        oracle = pl.read_parquet(tmp_path / "sim" / "oracle" / f"{split}.parquet")
        assert oracle["_row"].to_list() == rows["_row"].to_list()
        true = raw["test" if split == "test" else "train"]
        assert oracle.equals(true[oracle["_row"].to_list()].select("_row", "click", "purchase"))


def test_other_options_are_refused_and_overwrite_replaces(tmp_path: Path) -> None:
    verb.run(config(tmp_path))
    old = read_meta(tmp_path / "sim").checksum
    other = {"dataset__prepare__min_count": 2, "dataset__prepare__simulate__seed": 5}
    with pytest.raises(SeqmtlError) as e:
        verb.run(config(tmp_path, **other))
    assert "dataset.prepare.min_count: 1 there, 2 asked for" in str(e.value)
    assert "dataset.prepare.simulate.seed: None there, 5 asked for" in str(e.value)
    assert "overwrite=true" in str(e.value)
    assert read_meta(tmp_path / "sim").checksum == old
    verb.run(config(tmp_path, **other, overwrite=True))
    assert read_meta(tmp_path / "sim").checksum != old
    assert left(tmp_path) == ["raw", "sim"]


def test_damaged_data_say_overwrite(tmp_path: Path) -> None:
    verb.run(config(tmp_path))
    shard = tmp_path / "sim" / "train" / "part-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(SeqmtlError, match=r"part-00000.parquet has .* bytes instead of .*overwrite=true"):
        verb.run(config(tmp_path))
    shard.unlink()
    with pytest.raises(SeqmtlError, match=r"part-00000.parquet is missing; overwrite=true"):
        verb.run(config(tmp_path))
    (tmp_path / "sim" / "meta.json").write_text("{")
    with pytest.raises(SeqmtlError, match=r"meta.json is damaged.*overwrite=true"):
        verb.run(config(tmp_path))
    (tmp_path / "sim" / "meta.json").unlink()
    with pytest.raises(SeqmtlError, match=r"has no meta.json; overwrite=true"):
        verb.run(config(tmp_path))
    verb.run(config(tmp_path, overwrite=True))
    assert shard.read_bytes() == whole


def test_what_seqmtl_did_not_write_is_never_overwritten(tmp_path: Path) -> None:
    small_raw(tmp_path / "sim")
    (tmp_path / "sim" / "meta.json").write_text("{}")
    before = left(tmp_path / "sim")
    with pytest.raises(SeqmtlError, match="holds what no dataset of seqmtl holds"):
        verb.run(config(tmp_path, overwrite=True))
    with pytest.raises(SeqmtlError, match="lies inside"):
        verb.run(real(tmp_path, tmp_path / "sim", overwrite=True))
    with pytest.raises(SeqmtlError, match=r"files that no simulation wrote.*they are not overwritten"):
        verb.run(config(tmp_path / "data", raw_dir=str(tmp_path / "sim")))
    assert left(tmp_path / "sim") == before


def test_unknown_and_wrong_options(tmp_path: Path) -> None:
    for change, words in (
        ({"dataset__prepare__min_cuont": 3}, "dataset.prepare has no option min_cuont; it has min_count"),
        ({"dataset__prepare__simulate__sede": 3}, "dataset.prepare.simulate has no option sede"),
        ({"dataset__prepare__min_count": "many"}, "dataset.prepare.min_count must be a whole number, not 'many'"),
        ({"dataset__prepare___target_": "seqmtl.nothing"}, "dataset.prepare._target_ must name a function"),
    ):
        with pytest.raises(SeqmtlError, match=words.replace(".", r"\.")):
            verb.run(config(tmp_path, **change))
    assert left(tmp_path) == []


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    small_raw(tmp_path / "raw")
    path = tmp_path / "raw" / "sample_skeleton_test.csv"
    path.write_text(path.read_text().replace("7,0,0,", "7,0,x,", 1))
    with pytest.raises(SeqmtlError, match=r"sample_skeleton_test.csv, line 7"):
        verb.run(real(tmp_path / "data", tmp_path / "raw"))
    assert left(tmp_path / "data") == []
    with pytest.raises(SeqmtlError, match="raw files of Ali-CCP are missing"):
        verb.run(real(tmp_path / "data", tmp_path / "nowhere"))
    assert left(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left on the disk; make room"), (errno.EACCES, "permission denied; make it writable")],
)
@pytest.mark.parametrize("nth", [1, 3, 5])
def test_an_error_of_the_disk_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str, nth: int) -> None:
    small_raw(tmp_path / "raw")
    cfg = real(tmp_path / "data", tmp_path / "raw", dataset__prepare__rows_per_shard=20)
    verb.run(cfg)
    before = read_meta(tmp_path / "data" / "sim")
    calls = 0
    fsync = atomic.os.fsync  # type: ignore[attr-defined]

    def failing(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(number, "injected")
        fsync(fd)

    monkeypatch.setattr("seqmtl.prepare.atomic.os.fsync", failing)
    cfg.overwrite = True
    with pytest.raises(SeqmtlError, match=f"could not write .*: {words}.*Nothing half-written was kept"):
        verb.run(cfg)
    assert left(tmp_path / "data") == ["sim"]
    assert read_meta(tmp_path / "data" / "sim") == before  # what was there is still there


SCRIPT = """
import sys
from omegaconf import OmegaConf
from seqmtl.errors import SeqmtlError
from seqmtl.prepare import verb
if len(sys.argv) > 2:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    verb.run(OmegaConf.load(sys.argv[1]))
except SeqmtlError as e:
    sys.exit(str(e))
"""


def start(tmp_path: Path, cfg: DictConfig, *more: str) -> subprocess.Popen[str]:
    OmegaConf.save(cfg, tmp_path / "cfg.yaml")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "cfg.yaml"), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    cfg = config(tmp_path / "data", 20_000, dataset__prepare__rows_per_shard=1_000_000)
    verb.run(cfg)
    cfg.dataset.name = "other"
    cfg.raw_dir = str(tmp_path / "data" / "raw" / "sim")
    process = start(tmp_path, cfg, "100000")
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"could not write {tmp_path / 'data' / '.other.partial'}" in message
    assert "the file would be larger than is allowed here; raise the limit" in message
    assert "Traceback" not in message
    assert left(tmp_path / "data") == ["raw", "sim"]


def kill_when(process: subprocess.Popen[str], moment: Any) -> None:
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end and not moment():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again(tmp_path: Path) -> None:
    verb.run(config(tmp_path / "quiet", 20_000))
    wanted = read_meta(tmp_path / "quiet" / "sim")
    data = tmp_path / "data"
    cfg = config(data, 20_000)
    for pattern in ("raw/.sim.partial/sample*", "raw/sim/simulation.json", ".sim.partial/train/*", ".sim.partial/oracle/*"):
        kill_when(start(tmp_path, cfg), lambda pattern=pattern: list(data.glob(pattern)))
    verb.run(cfg)
    assert read_meta(data / "sim") == wanted
    assert left(data) == ["raw", "sim"]
    assert left(data / "raw") == ["sim"]


@pytest.mark.slow
def test_killed_at_random_moments_while_overwriting(tmp_path: Path) -> None:
    data = tmp_path / "data"
    cfg = config(data, 20_000)
    verb.run(cfg)
    wanted = read_meta(data / "sim")
    cfg.overwrite = True
    rng = random.Random(0)
    for _ in range(12):
        stop = time.monotonic() + rng.uniform(0.5, 2.5)
        kill_when(start(tmp_path, cfg), lambda stop=stop: time.monotonic() > stop)
    cfg.overwrite = False
    verb.run(cfg)
    assert read_meta(data / "sim") == wanted
    cfg.overwrite = True
    verb.run(cfg)
    assert read_meta(data / "sim") == wanted
    assert left(data) == ["raw", "sim"]


@pytest.mark.parametrize("there", [("partial",), ("old",), ("old", "partial"), ("old", "new"), ("partial", "new")])
def test_what_a_kill_left_is_put_right(tmp_path: Path, there: tuple[str, ...]) -> None:
    target = tmp_path / "d"
    for what in there:
        directory = target if what == "new" else tmp_path / f".d.{what}"
        directory.mkdir()
        (directory / "mark").write_text(what)
    atomic.recover(target)
    kept = "new" if "new" in there else "old" if "old" in there else None
    assert left(tmp_path) == (["d"] if kept else [])
    if kept:
        assert (target / "mark").read_text() == kept


def test_two_at_once_make_one(tmp_path: Path) -> None:
    cfg = config(tmp_path / "data", 20_000)
    processes = [start(tmp_path, cfg) for _ in range(2)]
    outs = [p.communicate(timeout=60) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outs
    assert sum("already prepared" in out for out, _ in outs) == 1
    assert left(tmp_path / "data") == ["raw", "sim"]


def test_the_configurations_compose() -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        for name in sorted(path.stem for path in Path(CONF, "dataset").glob("*.yaml")):
            cfg = compose("prepare", overrides=[f"dataset={name}"])
            assert cfg.dataset.name == name
            optional = {"rates", "histories", "main_history", "profile", "transfer", "downsample", "user"}
            assert set(cfg.dataset) - optional == {"name", "about", "fields", "tasks", "batch_size", "prepare"}
            assert f"seqmtl prepare dataset={name}" in cfg.dataset.about
            prepare: Any = OmegaConf.to_container(cfg.dataset.prepare, resolve=True)
            simulate = prepare.pop("simulate", None)
            for node in [prepare] + ([simulate] if simulate else []):
                verb._function(node, "", {k: v for k, v in node.items() if k != "_target_"})
        cfg = compose("prepare", overrides=["dataset=aliccp_demo", "dataset.rates=paper"])
        assert cfg.dataset.prepare.simulate.rates == "paper"
        assert cfg.dataset.prepare.simulate.train_rows == 60_000


def test_the_verb_imports_nothing_heavy() -> None:
    code = "import sys, seqmtl.prepare.verb; print({'torch', 'polars', 'pyarrow', 'rich', 'numpy', 'hydra'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
