"""One model of each variant on images: whose weights are highest and lowest."""

from dataclasses import dataclass

import numpy as np

from datalab import data, framework
from datalab.data import REGISTRY
from datalab.experiments.framework_cell import Study, auroc
from datalab.experiments.framework_components import Parameters
from datalab.experiments.inspection_cell import losses_of
from datalab.protocol import protocol
from datalab.training import protocol_recipe

SHOWN = 10


@dataclass(frozen=True)
class Weighted:
    """One variant's weights on the images' training set, with one in five labels flipped.

    ``order`` (n,) sorts by weight, highest first; ``images`` (n, height, width) as they came; ``losses`` (n,).
    """

    variant: str
    order: np.ndarray
    images: np.ndarray
    observed: np.ndarray
    clean: np.ndarray
    names: tuple[str, ...]
    auroc: float
    losses: np.ndarray

    @property
    def highest(self) -> np.ndarray:
        return self.order[:SHOWN]

    @property
    def lowest(self) -> np.ndarray:
        return self.order[-SHOWN:][::-1]


def weighted(p: Parameters) -> list[Weighted]:
    """Each variant trained once on the picture data set, at the default lambda1 and tau."""
    rule = protocol().framework
    study = Study(p.picture_dataset, "mlp", 0, p.root_seed, (rule["verdict_rate"],), p.caps, p.encoder, p.chosen_device)
    prepared, observed = study.prepared, study.observed[0]
    spec, pixels = REGISTRY[p.picture_dataset], data.load(p.picture_dataset).features
    images = pixels.iloc[prepared.train_ids].to_numpy(dtype=float).reshape(-1, *spec.grid[1:])
    found = []
    for variant in framework.VARIANTS:
        stack = framework.fit_datalab(
            study.datalab(variant=variant),
            study.x,
            observed,
            [study.model_seed("model")],
            protocol_recipe(),
            lambda1=rule["default"]["lambda1"],
            lambda2=p.picture_lambda2,
            tau=rule["tau"],
        )
        w = framework.weights(stack, study.x, observed)[0]
        order = np.argsort(-w.cpu().numpy(), kind="stable")
        losses = losses_of(stack, study.x, observed)[0].cpu().numpy()
        about = (images, observed, prepared.y_train, prepared.class_names)
        found.append(Weighted(variant, order, *about, auroc(w, observed == prepared.y_train), losses))
    return found
