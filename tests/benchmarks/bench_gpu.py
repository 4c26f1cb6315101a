"""One GPU beside one core, and beside kronfluence on the same GPU, where that is installed.

A training step of many models, and fit and scores of the influence estimators: microseconds of one more example, from
the whole and the half of a set, so that what a verb costs once does not count (it is ``fixed``, in milliseconds). Times
are the best of several rounds, the device waited for; a core's sets are smaller. Writes ``gpu.csv``, ``gpu.md`` and
``peer.csv`` into ``--out``.
"""

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from datalab import influence
from datalab.influence.estimator import InfluenceWarning
from datalab.sweep import machine_speed

sys.path.insert(0, str(Path(__file__).parents[1] / "influence"))  # ResNet-18 as the tests build it

ESTIMATORS = {
    "EKFAC": lambda model: influence.EKFAC(model, 1e-3),
    "KFAC": lambda model: influence.KFAC(model, 1e-3),
    "LastLayerGGN": lambda model: influence.LastLayerGGN(model, 1e-3),
    "DataInf": lambda model: influence.DataInf(model, 1e-3),
    "GradDot": lambda model: influence.GradDot(model),
}
ROWS = {"mlp": (50_000, 2_000), "cnn": (50_000, 2_000), "resnet18": (4_000, 128)}  # examples on the GPU, and on a core
LARGE = ("EKFAC", "LastLayerGGN", "GradDot")  # of a ResNet-18
TOLD_APART = 0.15  # of the time of a whole set: a difference to its half's that is no mere noise
TESTS = {"mlp": 100, "cnn": 100, "resnet18": 16}
FITTED = {"mlp": 1_000, "cnn": 1_000, "resnet18": 64}  # what scores: DataInf's depend on how many
PEERS_ROWS = {"mlp": 8_192, "cnn": 8_192, "resnet18": 512}


def problem(kind: str, n: int, device: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A model with random weights, n random examples, and labels of 10 classes."""
    from test_influence_architectures import ResNet18

    torch.manual_seed(0)
    mlp = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
    cnn = [nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2), nn.ReLU()]
    cnn += [nn.Flatten(), nn.Linear(512, 10)]
    model = ResNet18(32, 10) if kind == "resnet18" else nn.Sequential(*(mlp if kind == "mlp" else cnn))
    x = torch.randn(n, *((3, 32, 32) if kind == "resnet18" else (784,)), device=device)
    return model.to(device).eval(), x, torch.randint(10, (n,), device=device)


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


def verbs(make: Callable, fitted: object, model: nn.Module, tests: Sequence[torch.Tensor]) -> dict[str, Callable]:
    """What is timed, of examples and labels: of our estimators and of a peer's alike."""
    return {
        "fit": partial(make, model),
        "self_influence": fitted.self_influence,
        "pairwise": lambda x, y: fitted.pairwise(x, y, *tests),
    }


def scoring() -> Iterator[dict[str, object]]:
    """Microseconds an example, of fit and of every verb."""
    for kind, sizes in ROWS.items():
        for name in LARGE if kind == "resnet18" else ESTIMATORS:
            for device, n in zip(("cuda", "cpu"), sizes, strict=True):
                model, x, y = problem(kind, n, device)
                make = partial(fitted_on, ESTIMATORS[name])
                fitted, tests = make(model, x[: FITTED[kind]], y[: FITTED[kind]]), (x[: TESTS[kind]], y[: TESTS[kind]])
                for verb, action in verbs(make, fitted, model, tests).items():
                    half, whole = (
                        seconds(partial(action, x[:m], y[:m]), device, rounds=3 if device == "cuda" else 1)
                        for m in (n // 2, n)
                    )
                    told_apart = whole - half > TOLD_APART * whole
                    yield {
                        "what": f"{verb}, an example",
                        "of": f"{name}, {kind}",
                        "device": device,
                        "microseconds": 1e6 * (whole - half) / (n - n // 2) if told_apart else float("nan"),
                        "fixed": 1e3 * (2 * half - whole),
                    }


def fitted_on(make: Callable, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> influence.Estimator:
    return make(model).fit(x, y)


def beside_kronfluence() -> Iterator[dict[str, object]]:
    """EK-FAC, of sampled labels, on the GPU: seconds of both, and how many times ours kronfluence takes."""
    import peers

    peer = peers.peer("kronfluence", "EK-FAC")
    makes = {
        "ours": partial(fitted_on, lambda model: influence.EKFAC(model, 1e-3, fisher="sampled")),
        "kronfluence": lambda model, x, y: peer.fit(model, x, y, 1e-3),
    }
    for kind, n in PEERS_ROWS.items():
        model, x, y = problem(kind, n, "cuda")
        tests = x[: TESTS[kind]], y[: TESTS[kind]]
        timed = {
            by: {
                verb: seconds(partial(action, x, y), "cuda", rounds=2)
                for verb, action in verbs(make, make(model, x, y), model, tests).items()
            }
            for by, make in makes.items()
        }
        for verb, ours in timed["ours"].items():
            theirs = timed["kronfluence"][verb]
            yield {"model": kind, "what": verb, "ours": ours, "kronfluence": theirs, "ratio": theirs / ours}


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
    fixed = frame[frame.device == "cuda"].set_index(["what", "of"]).fixed
    wide["fixed, ms"] = fixed.reindex(pd.MultiIndex.from_frame(wide[["what", "of"]])).to_numpy()
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "gpu.csv", index=False)
    card = (
        f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}; one core's microseconds, the card's, their ratio"
    )
    text = f"{card}\n\n{wide.round(3).to_markdown(index=False)}\n"
    (out / "gpu.md").write_text(text, encoding="utf-8")
    print(text)
    if importlib.util.find_spec("kronfluence"):
        beside = pd.DataFrame(beside_kronfluence())
        beside.to_csv(out / "peer.csv", index=False)
        print(beside.to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    main()
