"""The processor that computes, and the kernels it is held to: libraries choose theirs by the processor they find.

Sums in another order differ in the last digit, and training carries that on to scores. With the libraries held to the
kernels that all x86-64 processors with AVX2 have, rows made on one of them are those of another of the same maker. MKL
listens on Intel's alone: on AMD's it takes its own, and what it has for all (``MKL_CBWR=COMPATIBLE``) takes a third
more time.
"""

import functools
import platform
from pathlib import Path

import numpy as np
import psutil

_CPUINFO = Path("/proc/cpuinfo")
HELD = "kernels of AVX2"
_BEYOND = ("AVX512", "X86_V4")  # names, or their beginnings, of what numpy has for processors beyond AVX2


@functools.cache
def _cpu() -> dict[str, str]:
    """What the system says of its first processor, by name; nothing where it does not say it as Linux does."""
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0] if _CPUINFO.exists() else ""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def processor() -> str:
    """The processor's name with its family and model, since makers give one name to many; printable, and not long."""
    cpu = _cpu()
    name = cpu.get("model name") or platform.processor() or platform.machine()
    name = "".join(letter if letter.isprintable() else " " for letter in name)[:100]
    parts = {"family": "cpu family", "model": "model"}
    return ", ".join([name, *(f"{part} {cpu[key]}" for part, key in parts.items() if key in cpu)])


@functools.cache
def held() -> dict[str, str]:
    """The environment that holds torch, its oneDNN and (Intel's) MKL, numpy and OpenBLAS to the kernels of AVX2.

    Empty where the processor has none. A process must be started with it: set later, it has no effect.
    """
    if "avx2" not in _cpu().get("flags", "").split():
        return {}
    simd = np.show_config(mode="dicts")["SIMD Extensions"]  # found, and not found: switched off already
    beyond = [name for name in [*simd.get("found", []), *simd.get("not found", [])] if name.startswith(_BEYOND)]
    return {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": " ".join(sorted(beyond)),
        "NPY_ENABLE_CPU_FEATURES": "",  # beside the other numpy refuses to be imported
    }


def are_held() -> bool:
    """Whether this process was started to compute by the kernels of :func:`held`, whatever it has set since."""
    return bool(held()) and held().items() <= psutil.Process().environ().items()


def named() -> str:
    """The processor, and whether its kernels are held: what rows say of where they were made."""
    return f"{processor()}, {HELD if are_held() else 'its own kernels'}"
