"""KuaiRand-Pure's raw files → shards (https://kuairand.com; Gao et al., KuaiRand, CIKM 2022, doi 10.1145/3511808.3557624).

    log_standard*_pure.csv           impressions under the app's own recommendation; all that are there, sorted by name
    user_features_pure.csv           one line per user
    video_features_basic_pure.csv    one line per video

Split by time: the rows sorted by `time_ms` (ties in file order), first train, then valid, then test. Vocabularies and quantiles
are those of the training rows alone. The histories of a row are the videos of the user's rows of earlier milliseconds: those
clicked, viewed long, liked, and not clicked (`negative`).

Unusual: 2,979 of 94,784 real rows repeat the user, video and time of another one, nearly always with its labels; so a row of the
same millisecond is none of the past, or a history would tell the label. A child without its parent (104 long views and 291 likes
without a click among the same rows) is lowered to 0 by default, because dropping the row would choose impressions by their outcome.
`is_rand` (0 in every standard log), `is_lowactive_period` and `visible_status` are constant and left out; `duration_ms` of the log
repeats `video_duration`.
Whatever happens after the impression is refused by name (`seqmtl.data.meta.OUTCOMES`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.errors import SeqmtlError
from seqmtl.prepare.csv_table import Table, read_table
from seqmtl.prepare.past import first_rows, past
from seqmtl.prepare.raw import BadLines, Report
from seqmtl.prepare.writer import DatasetWriter

if TYPE_CHECKING:
    import polars as pl

PARENTS = {"click": None, "long_view": "click", "like": "click"}
HISTORIES = {"click": ("click", 1), "long_view": ("long_view", 1), "like": ("like", 1), "negative": ("click", 0)}
LABELS = {"click": "is_click", "long_view": "long_view", "like": "is_like"}

IDS = ("user_id", "video_id", "author_id", "music_id")
CONTEXT = ("tab", "hour")
USER = ("user_active_degree", "is_live_streamer", "is_video_author", "follow_user_num_range", "fans_user_num_range",
        "friend_user_num_range", "register_days_range", *(f"onehot_feat{i}" for i in range(18)))  # fmt: skip
VIDEO = ("video_type", "upload_type", "music_type", "tag")
USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
VIDEO_NUMBERS = ("video_duration", "server_width", "server_height")
AGE = "upload_age_days"
CATEGORIES = (*IDS, *CONTEXT, *USER, *VIDEO)
NUMBERS = (*USER_NUMBERS, *VIDEO_NUMBERS, AGE)

WHOLE = r"^[0-9]+$"
NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
DAY, DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", r"^[0-9]{8}$"


def prepare(
    raw_dir: Path,
    directory: Path,
    *,
    options: dict[str, Any] | None = None,
    report: Report = lambda what, rows, share: None,
    min_count: int = 2,
    quantiles: int = 32,
    valid_share: float = 0.1,
    test_share: float = 0.1,
    on_order_violation: str = "fix",
    on_bad_line: str = "error",
    rows_per_shard: int = 1_000_000,
) -> None:
    """Converts the raw files of `raw_dir` into a dataset in `directory`.

    Args:
        min_count: categories seen less often in the training rows become 0.
        quantiles: most bins of a numeric column.
        valid_share, test_share: shares of the rows, the last in time.
        on_order_violation: a long view or like without a click: `fix` lowers it to 0, `drop` the row, or `error`.
        on_bad_line: `error`, or `skip` and count.

    Raises:
        SeqmtlError: a file is missing, empty or bad; a split has no rows; the disk refuses.
    """
    _check_options(min_count, valid_share, test_share, quantiles, on_order_violation)
    bad = BadLines(on_bad_line)
    sources: dict[str, dict[str, Any]] = {}
    rows, dropped, fixed = _labels(_log(raw_dir, bad, sources, report), on_order_violation)
    rows = _join(rows, raw_dir, bad, sources, report).sort("time_ms", maintain_order=True)
    n = len(rows)
    ends = {"train": n - round(n * valid_share) - round(n * test_share), "valid": n - round(n * test_share), "test": n}

    made_of = dict.fromkeys(HISTORIES, "video_id")
    writer = DatasetWriter(directory, (*CATEGORIES, *NUMBERS), PARENTS, options, rows_per_shard, made_of)
    columns: dict[str, NDArray[Any]] = {name: rows[name].to_numpy() for name in ("_row", *PARENTS)}
    sizes = {}
    for name in CATEGORIES:
        columns[name], sizes[name] = _category(rows[name], ends["train"], min_count)
    for name in NUMBERS:
        columns[name], sizes[name] = _bins(rows[name].to_numpy(), ends["train"], quantiles)
    for name, flat in _histories(rows["user_id"].to_numpy(), rows["time_ms"].to_numpy(), columns).items():
        writer.history(name, flat)
    start = 0
    for split, end in ends.items():
        for at in range(start, end, rows_per_shard):
            stop = min(at + rows_per_shard, end)
            writer.add(split, {name: values[at:stop] for name, values in columns.items()})
            report("writing", stop, stop / n)
        start = end
    writer.finish(sizes, sources, {**bad.counts, **dropped}, fixed)


def _histories(user: NDArray[np.int64], time: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.int32]]:
    """The flat array of each behaviour, of rows in the order of time; their ends and lengths become columns."""
    order = np.argsort(user, kind="stable")
    first, videos = first_rows(user[order]), columns["video_id"][order]
    moment = np.maximum(first, first_rows(time[order]))  # the first row of the user's millisecond
    flat = {}
    for name, (task, label) in HISTORIES.items():
        behaviour = past(first, videos, columns[task][order] == label, until=moment)
        for what, values in (("end", behaviour.end), ("len", behaviour.length)):
            columns[f"{name}_{what}"] = np.empty_like(values)
            columns[f"{name}_{what}"][order] = values
        flat[name] = behaviour.flat
    return flat


def _check_options(min_count: int, valid_share: float, test_share: float, quantiles: int, on_order_violation: str) -> None:
    if not (0 < valid_share < 1 and 0 < test_share < 1 and valid_share + test_share < 1):
        raise SeqmtlError("dataset.prepare.valid_share and test_share must lie above 0 and leave some rows for training")
    if min_count < 1:
        raise SeqmtlError(f"dataset.prepare.min_count must be above 0, not {min_count}")
    if quantiles < 1:
        raise SeqmtlError(f"dataset.prepare.quantiles must be above 0, not {quantiles}")
    if on_order_violation not in ("drop", "fix", "error"):
        raise SeqmtlError(f"dataset.prepare.on_order_violation must be drop, fix or error, not {on_order_violation!r}")


def _log(raw_dir: Path, bad: BadLines, sources: dict[str, dict[str, Any]], report: Report) -> pl.DataFrame:
    """All impressions: _row, user_id, video_id, time_ms, date, hour, tab and the labels."""
    import polars as pl

    logs = sorted(raw_dir.glob("log_standard*_pure.csv"))
    _require_files(raw_dir, logs)
    patterns = dict.fromkeys(("user_id", "video_id", "time_ms", "hourmin", "tab"), WHOLE)
    patterns |= {"date": DATE} | dict.fromkeys(LABELS.values(), "^[01]$")
    frames, start = [], 0
    for path in logs:
        table = read_table(path, patterns, {}, bad)
        sources[path.name] = table.source
        frames.append(table.frame.with_columns(_row=pl.col("line").cast(pl.Int64) - 2 + start))
        start += table.lines
        report(f"reading {path.name}", start, 1.0)
    columns = [pl.col("_row"), pl.col("user_id", "video_id", "time_ms", "tab").cast(pl.Int64)]
    columns += [pl.col("date").str.to_date("%Y%m%d", strict=False), hour(pl.col("hourmin"))]
    columns += [pl.col(column).cast(pl.Int8).alias(task) for task, column in LABELS.items()]
    return pl.concat(frames).select(columns)


def hour(hourmin: pl.Expr) -> pl.Expr:
    """1400 → 14."""
    import polars as pl

    return (hourmin.cast(pl.Int64) // 100).alias("hour")


def _require_files(raw_dir: Path, logs: list[Path]) -> None:
    features = ("user_features_pure.csv", "video_features_basic_pure.csv")
    missing = [name for name in features if not (raw_dir / name).is_file()]
    if not logs:
        missing = ["log_standard*_pure.csv (at least one)", *missing]
    if missing:
        raise SeqmtlError(
            f"raw files of KuaiRand-Pure are missing in {raw_dir}: {', '.join(missing)}.\n"
            "Download KuaiRand-Pure.tar.gz (see https://kuairand.com, files at https://zenodo.org/records/10439422), put the"
            f" files of its data/ folder there, and run this command again (or give raw_dir=<where they are>).\n"
            "Without them, simulated data work now: seqmtl prepare dataset=aliccp_sim"
        )


def _labels(rows: pl.DataFrame, on_order_violation: str) -> tuple[pl.DataFrame, dict[str, int], dict[str, int]]:
    """Rows in which no step happens without its parent, and how many were dropped or fixed, by reason."""
    import polars as pl

    edges = [(task, parent) for task, parent in PARENTS.items() if parent is not None]
    broken = {f"{task}_without_{parent}": (pl.col(task) == 1) & (pl.col(parent) == 0) for task, parent in edges}
    counts = {reason: int(n) for reason, n in rows.select(**{k: e.sum() for k, e in broken.items()}).row(0, named=True).items()}
    if on_order_violation == "error" and any(counts.values()):
        first = rows.filter(pl.any_horizontal(*broken.values()))["_row"][0]
        raise SeqmtlError(
            f"labels break the order of the steps: {', '.join(f'{k} in {n} rows' for k, n in counts.items() if n)}; the first is"
            f" impression {first} (counted from 0 over the logs). dataset.prepare.on_order_violation=fix lowers them, drop leaves"
            " such rows out"
        )
    if on_order_violation == "drop":
        kept = rows.filter(~pl.any_horizontal(*broken.values()))
        once = _first_reason(counts, len(rows) - len(kept), rows, broken)
        return kept, once, {}
    lowered = [pl.when(e).then(0).otherwise(pl.col(task)).cast(pl.Int8).alias(task)
               for (task, _), e in zip(edges, broken.values(), strict=True)]  # fmt: skip
    return rows.with_columns(lowered), {}, counts


def _first_reason(counts: dict[str, int], total: int, rows: pl.DataFrame, broken: Mapping[str, pl.Expr]) -> dict[str, int]:
    """Each dropped row once, under the first rule that it breaks, so that the counts add up to the rows."""
    import polars as pl

    if sum(counts.values()) == total:
        return counts
    once, earlier = {}, pl.lit(False)
    for reason, e in broken.items():
        once[reason] = int(rows.select((e & ~earlier).sum()).item())
        earlier = earlier | e
    return once


def _join(rows: pl.DataFrame, raw_dir: Path, bad: BadLines, sources: dict[str, dict[str, Any]], report: Report) -> pl.DataFrame:
    """The features of the row's user and video beside it; null where there are none."""
    import polars as pl

    user = read_table(
        raw_dir / "user_features_pure.csv",
        {"user_id": WHOLE},
        dict.fromkeys(USER, "") | dict.fromkeys(USER_NUMBERS, NUMBER),
        bad,
        unique="user_id",
    )
    video = read_table(
        raw_dir / "video_features_basic_pure.csv",
        {"video_id": WHOLE},
        dict.fromkeys(VIDEO, "") | dict.fromkeys(VIDEO_NUMBERS, NUMBER)
        | {"author_id": WHOLE, "music_id": WHOLE, "upload_dt": DAY},
        bad,
        unique="video_id",
    )  # fmt: skip
    for name, table in (("user_features_pure.csv", user), ("video_features_basic_pure.csv", video)):
        sources[name] = table.source
        report(f"reading {name}", table.lines, 1.0)
    return (
        rows.join(_typed(user, USER_NUMBERS, ("user_id",)), on="user_id", how="left", maintain_order="left")
        .join(_typed(video, VIDEO_NUMBERS, ("video_id", "author_id", "music_id")), on="video_id", how="left", maintain_order="left")
        .with_columns(
            pl.col("tag").str.split(",").list.first().str.strip_chars().replace("", None),
            (pl.col("date") - pl.col("upload_dt").str.to_date("%Y-%m-%d", strict=False))
            .dt.total_days().cast(pl.Float64).alias(AGE),
        )
    )  # fmt: skip


def _typed(table: Table, numbers: tuple[str, ...], ids: tuple[str, ...]) -> pl.DataFrame:
    import polars as pl

    return table.frame.drop("line").with_columns(pl.col(*numbers).cast(pl.Float64), pl.col(*ids).cast(pl.Int64))


def _category(values: pl.Series, n_train: int, min_count: int) -> tuple[NDArray[np.int32], int]:
    """Ids from 1 in sorted order for what the training rows hold often enough, 0 for the rest; and the number of ids."""
    import polars as pl

    counts = values.head(n_train).drop_nulls().alias("value").value_counts(name="n")
    known = counts.filter(pl.col("n") >= min_count)["value"].sort()
    ids = values.to_frame("value").join(
        pl.DataFrame({"value": known, "id": np.arange(1, len(known) + 1, dtype=np.int32)}),
        on="value", how="left", maintain_order="left",
    )["id"].fill_null(0)  # fmt: skip
    return ids.to_numpy(), len(known) + 1


def _bins(values: NDArray[np.float64], n_train: int, quantiles: int) -> tuple[NDArray[np.int32], int]:
    """1 + the quantile bin of the training rows, 0 where there is no number; and the number of ids.

    No bin is empty in training: equal quantiles are one edge, and one at the minimum is none.
    """
    seen = values[:n_train][~np.isnan(values[:n_train])]
    edges = np.unique(np.sort(seen)[np.arange(1, quantiles) * len(seen) // quantiles]) if len(seen) else seen
    edges = edges[edges > seen.min()] if len(seen) else edges
    ids = np.where(np.isnan(values), 0, 1 + np.searchsorted(edges, values, side="right"))
    return ids.astype(np.int32), len(edges) + 2
