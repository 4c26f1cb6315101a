"""One cell of section 3.3: DATA-LAB's weights as lambda2 and tau move, a data set and seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch.nn.functional import cross_entropy

from datalab import framework, metrics
from datalab.protocol import protocol
from datalab.sections.trial import Trial, auroc
from datalab.training import protocol_recipe


def run_cell(
    dataset: str,
    seed: int,
    root_seed: int,
    lambda2s: Sequence[float],
    taus: Sequence[float],
    caps: dict[str, int],
    encoder: str,
    device: str,
) -> list[dict[str, Any]]:
    """A row per variant and setting, one of lambda2 and tau moved and the other at its default.

    Of the weights over the training set: ``ess``, the effective sample size as a share of n; ``weights_auroc``, the
    chance that a clean example outweighs a flipped one; ``loss_auroc``, the same of the model's own small losses;
    ``rank_correlation`` of weights and losses (Spearman); ``gap``, by how many nats the weights miss the minimum of
    sum w l + lambda2 KL. And ``macro_f1`` on the clean test set.
    """
    rule = protocol().framework
    study = Trial(dataset, "mlp", seed, root_seed, (rule["verdict_rate"],), caps, encoder, device)
    observed, n_classes = study.observed[0], study.prepared.n_classes
    clean = observed == study.prepared.y_train
    settings = [("lambda2", value, value, rule["tau"]) for value in lambda2s]
    settings += [("tau", value, rule["default"]["lambda2"], value) for value in taus]
    rows = []
    for variant in framework.VARIANTS:
        module = study.datalab(variant=variant)
        stack = framework.fit_datalab(
            module,
            study.x,
            observed,
            [study.model_seed("model")] * len(settings),
            protocol_recipe(),
            lambda1=rule["default"]["lambda1"],
            lambda2=[at for _, _, at, _ in settings],
            tau=[at for *_, at in settings],
        )
        weights = framework.weights(stack, study.x, observed).double()
        losses = losses_of(stack, study.x, observed)
        predicted = stack.predict(study.x_test).cpu().numpy()
        for (moved, value, lambda2, _), w, each, guess in zip(settings, weights, losses, predicted, strict=True):
            rows.append(
                {"dataset": dataset, "seed": seed, "variant": variant, "moved": moved, "value": value}
                | {"ess": float(framework.effective_sample_size(w)) / len(w)}
                | {"weights_auroc": auroc(w, clean), "loss_auroc": auroc(-each, clean)}
                | {"rank_correlation": _spearman(w, each), "gap": gap(w, each, lambda2)}
                | {"macro_f1": metrics.macro_f1(study.prepared.y_test, guess, n_classes)}
            )
    return rows


def losses_of(stack: framework.MappedStack, x: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    """The losses (S, n) of every model on x (n, d) with labels (n,), in float64."""
    y = torch.as_tensor(labels, device=x.device)
    return torch.stack([cross_entropy(one, y, reduction="none") for one in stack(x).double()])


def gap(w: torch.Tensor, losses: torch.Tensor, lambda2: float) -> float:
    """sum w l + lambda2 KL(w || u) less its minimum over all weights, in nats: at least 0."""
    reached = (w * losses).sum() + lambda2 * framework.kl_to_uniform(w.clamp(min=1e-300).log())
    return float(reached - framework.tilted_loss(losses, lambda2))


def _spearman(w: torch.Tensor, losses: torch.Tensor) -> float:
    w, losses = w.cpu().numpy(), losses.cpu().numpy()
    return float("nan") if np.ptp(w) == 0 or np.ptp(losses) == 0 else float(spearmanr(w, losses).statistic)
