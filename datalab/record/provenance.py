"""Where a record comes from: code, lock, protocol, ledger, commit, packages and the machine."""

import functools
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from threadpoolctl import threadpool_info

from datalab import atomic
from datalab.protocol import protocol
from datalab.sweep import kernels
from datalab.sweep.pool import ONE_THREAD, available_cores

PACKAGE = Path(__file__).resolve().parents[1]
# What makes a run repeatable byte for byte: one thread an operation, hashes that do not change between processes, and
# the same kernels on another processor.
DETERMINISM = ONE_THREAD | kernels.held() | {"PYTHONHASHSEED": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def project() -> Path | None:
    """The root of the checkout that the package is run from; ``None`` where it is installed without one."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def kernel_environment() -> dict[str, str]:
    """What a kernel is told so that it computes as its driver does: of the same package, and the same to the byte.

    A checkout comes before whatever the interpreter has installed: that may be another checkout.
    """
    own, others = project(), os.environ.get("PYTHONPATH", "")
    return DETERMINISM | ({"PYTHONPATH": os.pathsep.join(filter(None, (str(own), others)))} if own else {})


def notebooks() -> Path:
    """The notebooks that belong to this package: the checkout's, else those that were installed with it.

    Never those of the working directory, which may be a stranger's record.
    """
    return (project() or PACKAGE) / "notebooks"


def home() -> Path:
    """Where records go by default: into the checkout, for who works in it; else into the working directory."""
    root, here = project(), Path.cwd().resolve()
    return root if root is not None and here.is_relative_to(root.resolve()) else here


def reference() -> Path | None:
    """The committed record, of a checkout."""
    root = project()
    return None if root is None else (root / "runs" / "reference").resolve()


def shown(path: Path) -> str:
    """``path`` as a reader should see it: relative to the working directory or the project where it lies inside."""
    path = path.resolve()
    for base in filter(None, (Path.cwd(), project())):
        if path.is_relative_to(base.resolve()):
            return str(path.relative_to(base.resolve()))
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
        digest.update(f"{path.relative_to(PACKAGE).as_posix()} {atomic.sha256(path)}\n".encode())
    return digest.hexdigest()


def notebook_sha256(path: Path) -> str:
    """The hash of a notebook's cells (kind, source, tags): saving it with outputs in JupyterLab does not change it."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    kept = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def lock_sha256() -> str | None:
    """The hash of ``constraints.txt``, the lock as pip reads it; ``None`` where the package came without it."""
    path = PACKAGE.parent / "constraints.txt"
    return atomic.sha256(path) if path.is_file() else None


def sources(ledger: Any) -> dict[str, str | None]:
    """What the results depend on, by hash: ``code``, ``protocol``, ``ledger``, ``lock``."""
    return {"code": code_sha256(), "protocol": protocol().sha256, "ledger": ledger.sha256(), "lock": lock_sha256()}


def commit() -> dict[str, Any]:
    """``{"commit": hash or None, "clean": bool or None}`` of the checkout's git tree; an installation has none."""
    with suppress(OSError, subprocess.SubprocessError):
        if project() is not None:
            git = functools.partial(subprocess.run, capture_output=True, cwd=PACKAGE.parent, check=True, timeout=20)
            head, changed = git(["git", "rev-parse", "HEAD"]), git(["git", "status", "--porcelain"])
            return {"commit": head.stdout.decode().strip(), "clean": not changed.stdout}
    return {"commit": None, "clean": None}


@functools.cache
def packages() -> dict[str, str]:
    """Every installed distribution and its version."""
    versions: dict[str, str] = {}
    for known in (distribution.metadata for distribution in metadata.distributions()):  # parsed each time it is asked
        if name := known["Name"]:
            versions.setdefault(name.lower().replace("_", "-"), known["Version"])
    return dict(sorted(versions.items()))


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory in bytes, operating system, Python."""
    return {
        "processor": kernels.processor(),
        "cores": available_cores(),
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
    """What holds of this process, whatever its environment says: a variable set after the start may have no effect.

    ``threads`` is the most that a loaded library would use, ``hash_seed`` is known where it was fixed to 0, ``on`` says
    that both are as :data:`DETERMINISM` asks, ``kernels`` that they are those of any x86-64 processor with AVX2, and
    ``torch`` that torch's own switch is on.
    """
    torch = sys.modules.get("torch")
    threads = max([pool["num_threads"] for pool in threadpool_info()], default=1)
    threads = max(threads, torch.get_num_threads()) if torch else threads
    fixed = not sys.flags.hash_randomization
    return {
        "threads": str(threads),
        "hash_seed": "0" if fixed else None,
        "on": fixed and threads == 1,
        "kernels": kernels.are_held(),
        "torch": bool(torch and torch.are_deterministic_algorithms_enabled()),
    }


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children, the living ones included."""
    total, me = 0.0, psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # user and system, its own and those of its finished children
    return total


def peak_memory() -> int:
    """The largest resident memory, in bytes, that this process or any one of its finished children had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
