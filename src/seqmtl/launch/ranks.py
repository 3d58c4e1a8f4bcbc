"""`python -m seqmtl.launch.ranks …`: torchrun, which dies with its parent; of itself it would live on with all its ranks."""

from __future__ import annotations

import runpy

from seqmtl.process import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    runpy.run_module("torch.distributed.run", run_name="__main__", alter_sys=True)
