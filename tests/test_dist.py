"""The third way to start; `make dist` does it with what was built, in an empty environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_twin_sio_up_becomes_the_installed_server_whatever_lies_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text("raise SystemExit('of another project')")
    done = subprocess.run(
        [sys.executable, "-m", "twin_sio.cli", "up"],
        cwd=tmp_path,
        env={**os.environ, "TWIN_ENV": "production", "TWIN_MONGODB_URL": "", "TWIN_REDIS_URL": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("TWIN_MONGODB_URL is not set")
