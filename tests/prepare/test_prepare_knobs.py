"""The knobs of the simulations, as the command line takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from seqmtl.errors import SeqmtlError
from seqmtl.prepare import verb

CONF = str(Path(__file__).parents[2] / "conf")


@pytest.mark.parametrize("name", ["aliccp_sim", "tenrec_sim", "finance_sim", "ecommerce_sim"])
def test_knobs_of_simulations_take_fractions_and_seeds_do_not_take_signs(name: str) -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("prepare", overrides=[f"dataset={name}"])
    node: Any = OmegaConf.to_container(cfg.dataset.prepare.simulate, resolve=True)
    given = {k: v for k, v in node.items() if k != "_target_"}
    whole = {"rows", "train_rows", "test_rows", "seed", "rates"}
    fractions = {k: 0.5 for k in given if k not in whole}
    assert {"drift", "rows_per_user", "rows_per_item", "relatedness"} <= fractions.keys()
    verb._function(node, "here", given | fractions)
    for key in given.keys() & {"rows", "train_rows", "seed"}:
        with pytest.raises(SeqmtlError, match=f"here.{key} must be a whole number, not 0.5"):
            verb._function(node, "here", given | {key: 0.5})
    with pytest.raises(SeqmtlError, match=r"here\.seed must be 0 or above, not -1"):
        verb._function(node, "here", given | {"seed": -1})
