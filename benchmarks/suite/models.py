"""What is compared: models in equal sizes, by the overrides that give them to seqmtl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CONF = Path(__file__).parents[2] / "conf"
BATCH, APEM_BATCH, INFER_BATCH = 2000, 1024, 8192
DIMS = (5, 18)
DECAY = r"optimizer.decay=[{match: 'embedding\.weight$', value: 1e-6}]"  # the peers' L2, of the embeddings
OPTIMIZERS = ("adam", "lazy_adam", "exact_lazy_adam")

# The sizes of the peers' scripts (peers/rechub.py, peers/deepctr.py). torch-rechub's experts and towers have a batch norm that
# cannot be left out; seqmtl's have none.
SIZES = {
    "aitm": ("model=aitm", "model.trunk.dims=[128,64,32]", "model.trunk.dropout=0.2"),
    "mmoe": (
        *("model=mmoe", "model.trunk.experts=8", "model.trunk.dims=[64,32,16]", "model.trunk.tower_dims=[16]"),
        "model.trunk.dropout=0.0",
    ),
    "ple": (
        *("model=ple", "model.trunk.levels=[[64,32,16]]", "model.trunk.shared=3", "model.trunk.private=3"),
        *("model.trunk.tower_dims=[16]", "model.trunk.dropout=0.0"),
    ),
    "esmm": ("model=esmm", "model.trunk.dims=[128,64,32]", "model.trunk.dropout=0.2"),
    "apem": ("model=apem",),  # Table 2 of its paper
}
PEERS = {  # which library has which model; "plain" is suite/plain_apem.py
    "aitm": ("torch-rechub",),
    "mmoe": ("torch-rechub", "DeepCTR-Torch"),
    "ple": ("torch-rechub", "DeepCTR-Torch"),
    "esmm": ("torch-rechub",),
    "apem": ("plain",),
}


def overrides(model: str, dim: int, batch: int, optimizer: str, threads: int) -> list[str]:
    """The words of seqmtl for one contender: the peers' loss, their weight decay where the optimizer is theirs."""
    words = [*SIZES[model], f"model.dim={dim}", f"batch_size={batch}", f"optimizer={optimizer}", f"trainer.threads={threads}"]
    if model != "apem":
        words.append("loss=bce")
        words += [DECAY] if optimizer == "adam" else []
    return words


def optimizers_there() -> tuple[list[str], list[str]]:
    """Those that conf/optimizer has, and those that it does not have."""
    there = [name for name in OPTIMIZERS if (CONF / "optimizer" / f"{name}.yaml").is_file()]
    return there, [name for name in OPTIMIZERS if name not in there]


def dims_of(model: str, dims: Sequence[int]) -> list[int]:
    """The widths at which a model is measured: APEM's is the paper's."""
    return [18] if model == "apem" else list(dims)
