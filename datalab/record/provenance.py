"""Where a record comes from: code, lock, protocol, ledger, commit, packages and the machine."""

import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from datalab.record.study import Ledger

PACKAGE = Path(__file__).resolve().parents[1]
# What makes a run repeatable byte for byte: one thread an operation, and hashes that do not change between processes.
DETERMINISM = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def project() -> Path:
    """The project's root: the checkout the package is installed from, else the working directory."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else Path.cwd()


def shown(path: Path) -> str:
    """``path`` as a reader should see it: relative to the working directory or the project where it lies inside."""
    path = path.resolve()
    for base in (Path.cwd().resolve(), project().resolve()):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def one_line(error: OSError) -> str:
    """What the system said, and of which file."""
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")


def code_sha256() -> str:
    """One hash over every source file of the package (``.py``, ``.yaml``, ``.txt``, ``.md``), by name and content."""
    digest = hashlib.sha256()
    kinds = {".py", ".yaml", ".txt", ".md"}
    for path in sorted(path for path in PACKAGE.rglob("*") if path.suffix in kinds and path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(PACKAGE).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def notebook_sha256(path: Path) -> str:
    """The hash of a notebook's cells (kind, source, tags): saving it with outputs in JupyterLab does not change it."""
    return cells_sha256(json.loads(path.read_text(encoding="utf-8"))["cells"])


def cells_sha256(cells: list[dict[str, Any]]) -> str:
    """The same of a notebook's cells."""
    kept = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def lock_sha256() -> str | None:
    """The hash of ``constraints.txt``, the lock as pip reads it; ``None`` where the package came without it."""
    return _file_sha256(PACKAGE.parent / "constraints.txt")


def sources(ledger: Ledger) -> dict[str, str | None]:
    """What the results depend on, by hash: ``code``, ``protocol``, ``ledger``, ``lock``."""
    from datalab.protocol import protocol

    return {
        "code": code_sha256(),
        "protocol": protocol().sha256,
        "ledger": ledger.sha256(),
        "lock": lock_sha256(),
    }


def commit() -> dict[str, Any]:
    """``{"commit": hash or None, "clean": bool or None}`` of the project's git tree."""
    try:
        head = _git("rev-parse", "HEAD")
        return {"commit": head, "clean": not _git("status", "--porcelain")}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "clean": None}


def packages() -> dict[str, str]:
    """Every installed distribution and its version."""
    found = {}
    for distribution in metadata.distributions():
        if name := distribution.metadata["Name"]:
            found.setdefault(name.lower().replace("_", "-"), distribution.version)
    return dict(sorted(found.items()))


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory in bytes, operating system, Python."""
    import psutil

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def device(wanted: str) -> str:
    """What a section with ``device=wanted`` computes on: ``"cpu"`` or the CUDA device's name. Imports nothing new."""
    torch = sys.modules.get("torch")
    if wanted == "cpu" or torch is None or not torch.cuda.is_available():
        return "cpu"
    return torch.cuda.get_device_name(0)


def determinism() -> dict[str, Any]:
    """Whether this process runs with the settings of :data:`DETERMINISM`, and torch's own switch where it is loaded."""
    torch = sys.modules.get("torch")
    return {
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "hash_seed": os.environ.get("PYTHONHASHSEED"),
        "on": all(os.environ.get(name) == value for name, value in DETERMINISM.items()),
        "torch": bool(torch and torch.are_deterministic_algorithms_enabled()),
    }


def _file_sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
