"""AUC, LogLoss and calibration of whole splits: streaming, constant memory, summable over ranks, no mean over batches.

The area under the ROC curve is Wilcoxon's rank statistic with ties at their average rank (Hanley and McNeil, Radiology
1982, https://doi.org/10.1148/radiology.143.1.7063747): of all pairs of a positive and a negative row, the share in
which the positive scores higher,

    AUC = Σ_g pos_g · (negatives below g + neg_g / 2) / (P · N)          g: groups of equal scores

Unusual: scores are never probabilities and never thresholds. A float32 log-odds is turned into the integer of the same
order, so that sorting, ties (-0.0 = 0.0) and histogram bins are integer arithmetic; every state of AUC is an integer,
hence the same bits come out for any order of the rows, any batches and any number of ranks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from seqmtl.errors import SeqmtlError
from seqmtl.types import Schema

EXACT_ROWS = 2**22
"""Up to this many rows a split is kept as it is: 5 bytes per row and column, 21 MB a column."""
_INFINITY = 0x7F800000  # the bits of float32 +inf; what lies beyond is NaN
_MANTISSA_BITS = 23
_POSITION_BITS = 14
# 32,768 bins per factor of two where log-odds live, 1/64 ≤ |z| < 64, and 512 elsewhere: under 2^20, 33 MB a column
_FINE_BITS = 15
_COARSE_BITS = _MANTISSA_BITS - _POSITION_BITS


def ordered_keys(scores: Tensor) -> Tensor:
    """Integers in the order of the scores, (…) float → (…) int32: -0.0 and 0.0 are one key, NaN lies beyond ±inf."""
    bits = scores.detach().to(torch.float32).contiguous().view(torch.int32)
    sign = bits >> 31  # 0 or -1
    return (bits ^ (sign & 0x7FFFFFFF)) - sign  # sign and magnitude → two's complement


def _stretch() -> tuple[Tensor, Tensor, int]:
    """From key to bin: the first bin of each of 512 binades, the shift of its mantissa; and how many bins there are.

    A binade is the scores of equal sign and exponent: there keys, hence positions in a bin, are linear in the score.
    """
    binade = torch.arange(-256, 256)
    exponent = torch.where(binade < 0, ~binade, binade) - 127
    fine = (exponent >= -6) & (exponent < 6)
    bins = torch.where(fine, 1 << _FINE_BITS, 1 << _COARSE_BITS)
    return bins.cumsum(0) - bins, fine * (_FINE_BITS - _COARSE_BITS), int(bins.sum())


class AUC(Metric):
    """Area under the ROC curve of each column over a whole split, ties at their average rank.

    Up to `exact_rows` rows it is exact. Above, it is a histogram of the log-odds that also sums the position u ∈ [0,1)
    of the rows in their bin: pairs within a bin count pos · neg · clip(½ + ū_pos - ū_neg, 0, 1). That is exact where
    all rows of a bin tie and where its negatives lie evenly; what is left is sampling noise, about √(neg_bin / 12) rows
    for each positive. Seen at a positive rate of 2e-4: 1e-7 (root mean square) for 1 M rows, falling with their number.

    Args:
        rows: rows of the split, known beforehand (meta.json); decides between the two ways.
        exact_rows: the largest split that is kept row by row.
        columns: scores per row, C.

    Shapes: `update(scores (B,) or (B,C), y the same)`, y 1 positive, 0 negative, -1 not in this column's population;
    `compute() → (C,)`, or () for C = 1, float64; NaN where a column has one class only.

    Errors: NaN among the scores is counted, and `compute` raises SeqmtlError: on every rank, so none waits for another.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    keys: list[Tensor]
    labels: list[Tensor]
    count: Tensor
    position: Tensor
    nans: Tensor
    first_bin: Tensor
    up: Tensor

    def __init__(self, rows: int, exact_rows: int = EXACT_ROWS, columns: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.exact, self.columns = rows <= exact_rows, columns
        if self.exact:
            self.add_state("keys", [], dist_reduce_fx="cat")
            self.add_state("labels", [], dist_reduce_fx="cat")
            return
        first_bin, up, self.bins = _stretch()
        self.register_buffer("first_bin", first_bin, persistent=False)
        self.register_buffer("up", up, persistent=False)
        # (2,C,bins): negatives and positives of each bin, and the sum of their positions in it (in 2^-14 of the bin).
        self.add_state("count", torch.zeros(2, columns, self.bins, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("position", torch.zeros(2, columns, self.bins, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("nans", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, y: Tensor) -> None:
        keys, labels = ordered_keys(scores).view(-1, self.columns), y.view(-1, self.columns)
        if self.exact:
            self.keys.append(keys)
            self.labels.append(labels.to(torch.int8, copy=True))
            return
        # A state that was reset in a validation loop under inference mode may be written in inference mode only.
        with torch.inference_mode():
            labels = labels.to(torch.int64)
            binade = (keys >> _MANTISSA_BITS) + 256
            fraction = (keys & ((1 << _MANTISSA_BITS) - 1)) << self.up[binade]
            column = torch.arange(self.columns, device=keys.device)
            place = (labels.clamp(min=0) * self.columns + column) * self.bins + self.first_bin[binade]
            place = (place + (fraction >> _POSITION_BITS)).view(-1)
            counted = (labels >= 0).view(-1)
            within = (fraction & ((1 << _POSITION_BITS) - 1)).view(-1)
            self.count.view(-1).index_add_(0, place, counted.to(torch.int64))
            self.position.view(-1).index_add_(0, place, within * counted)
            self.nans += ((keys.abs() > _INFINITY) & (labels >= 0)).sum()

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather over ranks; a rank without rows has empty tensors of the right type, where torchmetrics guesses."""
        if self.exact and not self._is_synced and not self.keys:
            self.keys.append(torch.empty(0, self.columns, dtype=torch.int32, device=self.device))
            self.labels.append(torch.empty(0, self.columns, dtype=torch.int8, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> Tensor:
        if self.exact:
            keys, labels = _rows(self.keys), _rows(self.labels)
            _refuse_nan(int(((keys.abs() > _INFINITY) & (labels >= 0)).sum()))
            areas = [_exact_area(keys[:, c], labels[:, c]) for c in range(self.columns if len(keys) else 0)]
            areas = areas or [math.nan] * self.columns
        else:
            _refuse_nan(int(self.nans))
            areas = [_histogram_area(self.count[:, c], self.position[:, c]) for c in range(self.columns)]
        return torch.tensor(areas, dtype=torch.float64, device=self.device)


def _rows(state: list[Tensor] | Tensor) -> Tensor:
    """A `cat` state is a list until torchmetrics has gathered it."""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.empty(0, 0)


def _refuse_nan(nans: int) -> None:
    if nans:
        raise SeqmtlError(
            f"{nans:,} scores are NaN, so there is no AUC: the model diverged;"
            " try a smaller learning rate (optimizer.lr) or look at the terms of the loss"
        )


def _exact_area(keys: Tensor, labels: Tensor) -> float:
    """AUC of one column, (N,) keys and labels; twice the statistic is an integer, so only the division rounds."""
    keys, order = keys[labels >= 0].sort()
    _, group, size = torch.unique_consecutive(keys, return_inverse=True, return_counts=True)
    pos = torch.zeros_like(size).index_add_(0, group, labels[labels >= 0][order].to(torch.int64))
    neg = size - pos
    positives, negatives = int(pos.sum()), int(neg.sum())
    if not positives or not negatives:
        return math.nan
    return int((pos * (2 * (neg.cumsum(0) - neg) + neg)).sum()) / (2 * positives * negatives)


def _histogram_area(count: Tensor, position: Tensor) -> float:
    """AUC of one column from its bins, (2,bins) int64 each."""
    neg, pos = count
    positives, negatives = int(pos.sum()), int(neg.sum())
    if not positives or not negatives:
        return math.nan
    below = neg.cumsum(0) - neg
    mean = position.double() / count.clamp(min=1) / (1 << _POSITION_BITS)
    within = pos.double() * neg.double() * (0.5 + mean[1] - mean[0]).clamp(0, 1)
    # The whole pairs as a Python integer: 2^31 rows have fewer than 2^62.
    return (int((pos * below).sum()) + float(within.sum())) / (positives * negatives)


class LogLoss(Metric):
    """Mean binary cross-entropy of each column in nats, from logits, never clipped: -log σ((2y - 1) z).

    Shapes: `update(logits (B,) or (B,C), y the same)`, y in {0, 1}; `compute() → (C,)`, or () for C = 1, float64;
    NaN without rows, inf where a logit of ±inf is wrong.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    total: Tensor
    rows: Tensor

    def __init__(self, columns: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.columns = columns
        self.add_state("total", torch.zeros(columns, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, y: Tensor) -> None:
        z, y = logits.detach().double().view(-1, self.columns), y.view(-1, self.columns)
        # .double(): a module cast to bfloat16 takes its states along.
        self.total = self.total.double() - F.logsigmoid(torch.where(y > 0, z, -z)).sum(0)
        self.rows = self.rows + len(z)

    def compute(self) -> Tensor:
        return self.total / self.rows


class PCOC(Metric):
    """Predicted over observed: the mean of σ(logit) divided by the base rate; 1 is calibrated in the large.

    Shapes: `update(logits (B,) or (B,C), y the same)`; `compute() → (C,)`, or () for C = 1, float64;
    NaN for a column without positives.
    """

    full_state_update = False
    is_differentiable = False

    predicted: Tensor
    observed: Tensor

    def __init__(self, columns: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.columns = columns
        self.add_state("predicted", torch.zeros(columns, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("observed", torch.zeros(columns, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, y: Tensor) -> None:
        self.predicted = self.predicted.double() + logits.detach().double().view(-1, self.columns).sigmoid().sum(0)
        self.observed = self.observed.double() + y.double().view(-1, self.columns).sum(0)

    def compute(self) -> Tensor:
        return torch.where(self.observed > 0, self.predicted / self.observed, math.nan)


class TaskMetrics(nn.Module):
    """Every metric of every task of one split, under the names of metrics.json.

    auc and logloss are over all impressions. With `given`, also pcoc, and for a task with a parent auc_given: AUC where
    the parent happened, scored by the model's conditional logit, or where it has none by log p_task - log p_parent.

    Args:
        schema: names the tasks and their parents.
        rows: rows of the split.
        given: also the metrics that are reported on the test split only.
        exact_rows: see AUC.

    Shapes: `update(logits (B,T), y (B,T), conditional (B,T) | None)`.

    Errors: `compute` raises SeqmtlError if a score is NaN. The undefined (one class, no rows, no positives) is None.
    """

    def __init__(self, schema: Schema, rows: int, given: bool = False, exact_rows: int = EXACT_ROWS) -> None:
        super().__init__()
        tasks = schema.task_names
        pairs = [(t, parent) for t, parent in enumerate(schema.parents) if parent is not None] if given else []
        self.child, self.parent = [t for t, _ in pairs], [parent for _, parent in pairs]
        self.auc_names = [f"auc/{task}" for task in tasks] + [f"auc_given/{tasks[t]}" for t in self.child]
        self.tasks = tasks
        self.auc = AUC(rows, exact_rows, columns=len(self.auc_names))
        self.logloss = LogLoss(len(tasks))
        self.pcoc = PCOC(len(tasks)) if given else None

    def update(self, logits: Tensor, y: Tensor, conditional: Tensor | None = None) -> None:
        self.logloss.update(logits, y)
        if self.pcoc is not None:
            self.pcoc.update(logits, y)
        if not self.child:
            self.auc.update(logits, y)
            return
        happened = y[:, self.parent] > 0
        given = self._ratio(logits) if conditional is None else conditional[:, self.child]
        scores = torch.cat([logits.detach().float(), given.detach().float()], 1)
        self.auc.update(scores, torch.cat([y, torch.where(happened, y[:, self.child], -1)], 1))

    def _ratio(self, logits: Tensor) -> Tensor:
        """log p_task - log p_parent of the tasks with a parent, (B,T) → (B,children); -inf where p_task = 0."""
        log_p = F.logsigmoid(logits.detach().double())
        child = log_p[:, self.child]
        return (child - log_p[:, self.parent]).masked_fill(child == -math.inf, -math.inf)

    def compute(self) -> dict[str, float | None]:
        """{name: value}, with all ranks' rows where torch.distributed runs (then every rank must call it)."""
        values = dict(zip(self.auc_names, _floats(self.auc), strict=True))
        values |= {f"logloss/{task}": value for task, value in zip(self.tasks, _floats(self.logloss), strict=True)}
        if self.pcoc is not None:
            values |= {f"pcoc/{task}": value for task, value in zip(self.tasks, _floats(self.pcoc), strict=True)}
        return values

    def reset(self) -> None:
        for metric in (self.auc, self.logloss, self.pcoc):
            if metric is not None:
                metric.reset()


def _floats(metric: Metric) -> list[float | None]:
    return [None if math.isnan(value) else value for value in metric.compute().reshape(-1).tolist()]
