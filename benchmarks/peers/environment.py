"""The environment of the peers: made once by venv and pip, again when requirements.txt changes."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def python_of_peers(place: Path) -> Path:
    """The interpreter of the environment at `place`, which is made where it is not there or of other requirements.

    Raises:
        SystemExit: pip could not install something.
    """
    python, stamp = place / "bin" / "python", place / "requirements.txt"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if stamp.is_file() and python.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"making the environment of the peers in {place} (once)", flush=True)
    venv.create(place, with_pip=True, clear=place.exists())
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]
    if subprocess.run(command, check=False).returncode:
        sys.exit("the environment of the peers cannot be made; --no-peers measures seqmtl alone")
    stamp.write_text(wanted, encoding="utf-8")
    return python
