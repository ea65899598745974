"""HAProxy and nginx as processes, with the configurations of deploy/ as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from twin_sio.runtime.dev_engines.engines import Engine

DEPLOY = Path(__file__).parent.parent / "deploy"
_UNPACKED = Path(sys.prefix) / "debian"  # by tools/programs.sh
_PLACES = [os.environ["PATH"], "/usr/sbin", *(str(_UNPACKED / "usr" / name) for name in ("sbin", "bin"))]


def program(name: str) -> list[str]:
    """The begin of the command that runs it, where it is installed or unpacked."""
    found = shutil.which(name, path=os.pathsep.join(_PLACES))
    if found is None:
        raise FileNotFoundError(f"{name} is missing: run tools/programs.sh")
    libraries = os.pathsep.join(str(one) for one in (_UNPACKED / "usr" / "lib").glob("*-linux-gnu*"))
    return ["env", f"LD_LIBRARY_PATH={libraries}", found] if found.startswith(str(_UNPACKED)) else [found]


class Balancer(Engine):
    """Listens on a free port, in front of three servers; `variables` fill in what the configuration leaves open."""

    variable = "PATH"

    def __init__(self, name: str, config: str, folder: Path, ports: Sequence[int]) -> None:
        self.config = DEPLOY / config
        self._servers = {f"WEB{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)}
        super().__init__(name, program(name), folder)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        return {"BIND": f"127.0.0.1:{self.port}", **self._servers}

    def _is_ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


class HAProxy(Balancer):
    """It reads the variables from its environment by itself."""

    def __init__(self, config: str, folder: Path, ports: Sequence[int]) -> None:
        super().__init__("haproxy", config, folder, ports)

    def _command(self) -> list[str]:
        given = [f"{name}={value}" for name, value in self.variables.items()]
        return ["env", *given, *self._argv, "-db", "-f", str(self.config)]


class Nginx(Balancer):
    """The variables are put in as `envsubst` does. `below` a path the servers get requests without it."""

    def __init__(self, config: str, folder: Path, ports: Sequence[int], below: str = "") -> None:
        super().__init__("nginx", config, folder, ports)
        self._below = below

    def _command(self) -> list[str]:
        variables = self.variables
        text = re.sub(r"\$\{(\w+)\}", lambda found: variables[found.group(1)], self.config.read_text())
        if self._below:
            text, count = re.subn(
                r"location / \{(\s+)proxy_pass http://servers;",
                rf"location {self._below}/ {{\1proxy_pass http://servers/;",
                text,
            )
            assert count == 1
        folders = "".join(
            f"    {kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        written = self.folder / "nginx.conf"
        written.write_text(text.replace("http {\n", f"http {{\n{folders}", 1))
        options = f"daemon off; pid {self.folder}/nginx.pid;"
        return [*self._argv, "-e", "stderr", "-p", str(self.folder), "-c", str(written), "-g", options]
