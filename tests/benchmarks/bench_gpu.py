"""One GPU beside one core: a training step of many models, and fit and scores of the influence estimators.

Times are the best of several rounds, the device waited for; a core's figures are of fewer examples. Writes ``gpu.csv``
and ``gpu.md`` into ``--out``.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from datalab import influence
from datalab.influence.estimator import InfluenceWarning
from datalab.sweep import machine_speed

ESTIMATORS = {
    "EKFAC": lambda model: influence.EKFAC(model, 1e-3),
    "KFAC": lambda model: influence.KFAC(model, 1e-3),
    "LastLayerGGN": lambda model: influence.LastLayerGGN(model, 1e-3),
    "DataInf": lambda model: influence.DataInf(model, 1e-3),
    "GradDot": lambda model: influence.GradDot(model),
}
ROWS = {"cuda": 50_000, "cpu": 2_000}


def problem(kind: str, n: int, device: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A model with random weights, n random examples of 784 features, and labels of 10 classes."""
    torch.manual_seed(0)
    mlp = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
    cnn = [nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2), nn.ReLU()]
    cnn += [nn.Flatten(), nn.Linear(512, 10)]
    model = nn.Sequential(*(mlp if kind == "mlp" else cnn)).to(device).eval()
    return model, torch.randn(n, 784, device=device), torch.randint(10, (n,), device=device)


def seconds(action: Callable[[], object], device: str, rounds: int) -> float:
    """The shortest of ``rounds``, after one that is not counted."""
    best = float("inf")
    for counted in range(rounds + 1):
        start = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start) if counted else best
    return best


def training() -> Iterator[dict[str, object]]:
    """Microseconds that a training step of one MLP takes in a stack."""
    for device, sizes in {"cpu": [64], "cuda": [64, 512, 2048]}.items():
        for size in sizes:
            each = 1e6 * machine_speed.seconds_per_step(device, size=size, steps=200)
            yield {"what": "training step of one MLP", "of": f"{size} models", "device": device, "microseconds": each}


def scoring() -> Iterator[dict[str, object]]:
    """Microseconds an example, of fit and of every verb."""
    for kind in ("mlp", "cnn"):
        for name, make in ESTIMATORS.items():
            for device, n in ROWS.items():
                model, x, y = problem(kind, n, device)
                fitted = make(model).fit(x, y)
                verbs = {
                    "fit": lambda make=make, model=model, x=x, y=y: make(model).fit(x, y),
                    "self_influence": lambda fitted=fitted, x=x, y=y: fitted.self_influence(x, y),
                    "influence_on": lambda fitted=fitted, x=x, y=y: fitted.influence_on(x, y, x[:500], y[:500]),
                }
                for verb, action in verbs.items():
                    each = 1e6 * seconds(action, device, rounds=3 if device == "cuda" else 1) / n
                    yield {
                        "what": f"{verb}, an example",
                        "of": f"{name}, {kind}",
                        "device": device,
                        "microseconds": each,
                    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        raise SystemExit("bench_gpu: no CUDA device here; nothing was measured")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", InfluenceWarning)
    frame = pd.DataFrame([*training(), *scoring()])
    wide = frame.pivot_table("microseconds", ["what", "of"], "device", sort=False).reset_index()
    core = frame[frame.device == "cpu"].groupby("what").microseconds.first()  # training: one core, whatever the stack
    wide["cpu"] = wide.cpu.fillna(wide.what.map(core))
    wide["cores"] = wide.cpu / wide.cuda
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "gpu.csv", index=False)
    card = (
        f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}; one core's microseconds, the card's, their ratio"
    )
    text = f"{card}\n\n{wide.round(3).to_markdown(index=False)}\n"
    (out / "gpu.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
