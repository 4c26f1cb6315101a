"""Section 3.3's tables. The data set is the unit; a data set counts by its mean over seeds."""

import numpy as np
import pandas as pd
import torch

from datalab import framework
from datalab.sections.compare import by_set, mean_with_interval

COLUMNS = {
    "ess": "ESS / n",
    "weights_auroc": "AUROC of weights",
    "loss_auroc": "AUROC of small loss",
    "rank_correlation": "rank correlation with loss",
    "gap": "gap to optimum (nats)",
    "macro_f1": "F1",
}


def sweep(rows: pd.DataFrame, moved: str) -> pd.DataFrame:
    """A row per variant and value of the parameter ``moved``: what the weights become, 95 % t-intervals over sets."""
    found = []
    part = rows[rows.moved == moved]
    for variant in framework.VARIANTS:
        for value in sorted(part.value.unique()):
            row = {"variant": variant, moved: value}
            for column, name in COLUMNS.items():
                row |= mean_with_interval(by_set(part, column, variant=variant, value=value), name)
            found.append(row | {"sets": part.dataset.nunique()})
    return pd.DataFrame(found)


def ess_by_set(rows: pd.DataFrame, variant: str) -> pd.DataFrame:
    """ESS / n of one variant: data sets x lambda2."""
    part = rows[(rows.moved == "lambda2") & (rows.variant == variant)]
    return part.pivot_table(index="dataset", columns="value", values="ess", sort=False)


def identity(losses: np.ndarray, lambda2s: tuple[float, ...], rng: np.random.Generator, tries: int) -> pd.DataFrame:
    """The identity on real losses (n,), a row per lambda2.

    ``minimum`` is -lambda2 log mean exp(-l / lambda2); ``at the optimal weights`` the objective there; ``best of
    random`` the smallest objective among random weights of every concentration: never below the minimum.
    """
    each = torch.as_tensor(losses, dtype=torch.float64)
    concentration = rng.choice([0.01, 0.1, 1.0, 10.0], size=(tries, 1))
    drawn = rng.gamma(np.broadcast_to(concentration, (tries, len(losses)))) + 1e-300
    random = torch.as_tensor(drawn / drawn.sum(1, keepdims=True))

    def objective(log_w: torch.Tensor, lambda2: float) -> torch.Tensor:
        return (log_w.exp() * each).sum(-1) + lambda2 * framework.kl_to_uniform(log_w)

    found = []
    for lambda2 in lambda2s:
        log_w = framework.optimal_log_weights(each, lambda2).clamp(min=-700)
        found.append(
            {
                "lambda2": lambda2,
                "minimum": float(framework.tilted_loss(each, lambda2)),
                "at the optimal weights": float(objective(log_w, lambda2)),
                "best of random": float(objective(random.log(), lambda2).min()),
                "ESS / n of the optimum": float(framework.effective_sample_size(log_w.exp())) / len(losses),
            }
        )
    return pd.DataFrame(found)
