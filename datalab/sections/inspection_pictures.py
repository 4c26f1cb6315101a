"""One model of each variant on images: whose weights are highest and lowest."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from datalab import framework
from datalab.protocol import protocol
from datalab.sections.influence_pictures import SHOWN, ends, images, labelled_examples
from datalab.sections.inspection_cell import losses_of
from datalab.sections.trial import Trial, auroc
from datalab.training import protocol_recipe


@dataclass(frozen=True)
class Weighted:
    """One variant's weights on the images' training set, with one in five labels flipped.

    ``observed`` and ``clean`` labels by name (n,), the places of the ``highest`` and ``lowest`` weights with their
    ``images`` (height, width) as they came, by place; ``losses`` (n,).
    """

    variant: str
    images: dict[int, np.ndarray]
    observed: np.ndarray
    clean: np.ndarray
    highest: np.ndarray
    lowest: np.ndarray
    auroc: float
    losses: np.ndarray


def picture_cell(
    dataset: str, lambda2: float, root_seed: int, caps: dict[str, int], encoder: str, device: str
) -> list[dict[str, Any]]:
    """Each variant trained once at the default lambda1 and tau: a row an example, with its weight, loss and labels."""
    rule = protocol().framework
    study = Trial(dataset, "mlp", 0, root_seed, (rule["verdict_rate"],), caps, encoder, device)
    observed = study.observed[0]
    rows = []
    for variant in framework.VARIANTS:
        stack = framework.fit_datalab(
            study.datalab(variant=variant),
            study.x,
            observed,
            [study.model_seed("model")],
            protocol_recipe(),
            lambda1=rule["default"]["lambda1"],
            lambda2=lambda2,
            tau=rule["tau"],
        )
        weight = framework.weights(stack, study.x, observed)[0].double().cpu().numpy()
        values = {"weight": weight, "loss": losses_of(stack, study.x, observed)[0].cpu().numpy()}
        examples = labelled_examples(study.prepared, observed, values, shown=ends(weight))
        rows += [{"dataset": dataset, "variant": variant, **row} for row in examples]
    return rows


def weighted(rows: pd.DataFrame) -> list[Weighted]:
    """What the rows of :func:`picture_cell` hold, a variant each."""
    found = []
    for variant, part in rows.groupby("variant", sort=False):
        part = part.reset_index(drop=True)
        weight, loss = (part[name].to_numpy(copy=True) for name in ("weight", "loss"))  # torch wants them writable
        chosen = ends(weight)
        observed, clean = part.observed.to_numpy(), part.clean.to_numpy()
        about = (observed, clean, chosen[:SHOWN], chosen[SHOWN:], auroc(torch.as_tensor(weight), observed == clean))
        found.append(Weighted(str(variant), images(part), *about, loss))
    return found
