"""The kernels a process computes by: held to those of AVX2 where it was started so, and claimed only where they are."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_fakes import MATRIX

from datalab.sweep import kernels, rowfiles

AVX2 = pytest.mark.skipif(not kernels.held(), reason="this processor has no AVX2 that the system tells of")
PROCESSOR = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: Some EPYC
flags\t\t: fpu {flag}

processor\t: 1
model name\t: another
"""


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(kernels, "_CPUINFO", path)
    for cached in (kernels._cpu, kernels.held):
        cached.cache_clear()
    yield path
    for cached in (kernels._cpu, kernels.held):
        cached.cache_clear()


def test_a_processor_is_told_from_others_of_its_name(cpuinfo: Path) -> None:
    cpuinfo.write_text(PROCESSOR.format(flag="avx2"))
    assert kernels.processor() == "Some EPYC, family 25, model 17"
    assert kernels.held()["ATEN_CPU_CAPABILITY"] == "avx2"


def test_a_processors_name_is_one_that_rows_can_say(cpuinfo: Path) -> None:
    cpuinfo.write_bytes(
        PROCESSOR.format(flag="avx2").replace("Some EPYC", "Some\xa0EPYC\x1b" + 90 * "x" + 90 * "y").encode("latin-1")
    )
    assert kernels.processor().isprintable()
    assert kernels.processor().endswith("x, family 25, model 17")
    assert len(kernels.named()) < rowfiles.LONGEST_PROCESSOR


@pytest.mark.parametrize("text", [None, PROCESSOR.format(flag="avx"), "Features : neon\n"])
def test_without_avx2_nothing_is_held_nor_claimed(cpuinfo: Path, text: str | None) -> None:
    if text is not None:
        cpuinfo.write_text(text)
    assert kernels.held() == {}
    assert not kernels.are_held()
    assert kernels.processor()
    assert kernels.named().endswith("its own kernels")


def in_a_process(code: str, environment: dict[str, str], *given: str) -> str:
    """What ``code`` prints in a process that is told ``environment``, and nothing of this one's kernels."""
    kept = {name: value for name, value in os.environ.items() if name not in kernels.held()}
    run = [sys.executable, "-c", code, *given]
    return subprocess.run(run, env=kept | environment, capture_output=True, text=True, check=True).stdout.strip()


@AVX2
def test_kernels_are_held_from_the_start_of_a_process_or_not_at_all() -> None:
    told = "import torch.backends.cpu as cpu; from datalab.sweep import kernels; "
    told += "print(cpu.get_cpu_capability(), kernels.named())"
    assert in_a_process(told, kernels.held()) == f"AVX2 {kernels.processor()}, {kernels.HELD}"
    late = "import os; from datalab.sweep import kernels; os.environ.update(kernels.held()); print(kernels.named())"
    assert in_a_process(late, {}).endswith("its own kernels")


SWEEP = """
import sys
from pathlib import Path
from datalab import sweep
from datalab.sweep import pool, rowfiles
tasks = [sweep.Task(sys.argv[1], {"seed": seed}) for seed in (1, 2)]
sweep.run(tasks, Path(sys.argv[2]), workers=2)
for held in (False, True):
    print([rows.attrs[rowfiles.PROCESSOR] for _, rows, _ in pool.in_processes(tasks[:1], workers=1, held=held)][0])
"""


@AVX2
def test_rows_are_the_same_to_the_byte_whatever_kernels_the_caller_has(tmp_path: Path) -> None:
    others = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Prescott"}
    others |= {"NPY_ENABLE_CPU_FEATURES": "SSE42"}
    path = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    files = {}
    for name, environment in {"own": {}, "others": others, "held": kernels.held()}.items():
        said = in_a_process(SWEEP, environment | path, MATRIX, str(tmp_path / name)).splitlines()
        # By the processor's own kernels run other workers than those that are held, and they say so.
        assert said == [f"{kernels.processor()}, its own kernels", f"{kernels.processor()}, {kernels.HELD}"]
        files[name] = [file.read_bytes() for file in sorted((tmp_path / name).iterdir())]
    assert len(files["own"]) == 2
    assert files["own"] == files["others"] == files["held"]
    (task, _), *_ = rowfiles.by_task(next((tmp_path / "own").iterdir()))
    assert task.processor == f"{kernels.processor()}, {kernels.HELD}"
