"""Fitted estimators as safetensors files: the tensors that ``fit`` took, and in the header all that rebuilds the rest.

Nothing in a file is executed: its header names an estimator among those known here, and its settings are plain JSON.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence import settings
from datalab.influence.as_fitted import Answer, AsFitted, Marks, State
from datalab.influence.losses import Loss
from datalab.influence.sets import Rows
from datalab.stack import Stack

# The layout of what is kept: since 2 a convolution's channels come last, since 3 unsaved buffers stand apart.
_KEY = "datalab.influence/3"


def write(estimator: Any, path: str | Path, examples: bool) -> None:
    """Write a fitted estimator; raises UserError for one that needs its training set again."""
    name = type(estimator).__name__
    if estimator._state is None:
        raise UserError(f"{name}: needs its training set at every solve, so there is nothing to save; fit it anew")
    tensors: dict[str, Tensor] = {}
    kept = settings.names(type(estimator)) - {"model", "loss"}
    given = {key: getattr(estimator, key) for key in sorted(kept)}  # all that are kept as attributes
    given["dtype"] = given["dtype"] and str(given["dtype"])[6:]
    header = {
        "estimator": name,
        "settings": given,
        "loss": repr(estimator.loss),
        "model": estimator._as_fitted.state,
        "examples": _flattened("examples", _examples(estimator) if examples else None, tensors),
        "n": estimator.n_,
        "state": {key: _flattened(key, getattr(estimator, key), tensors) for key in estimator._state},
        "newton_gain": _flattened("newton_gain", getattr(estimator, "newton_gain_", None), tensors),
    }
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, {_KEY: json.dumps(header)})
    except (SafetensorError, OSError) as error:
        raise UserError(f"path: {path} cannot be written: {error}") from None


def read(kinds: dict[str, type], path: str | Path, model: nn.Module | Stack, loss: Loss) -> Any:
    """An estimator of one of ``kinds`` as ``write`` left it; raises UserError for another file, model or loss."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        kind, given, fitted_with = kinds[header["estimator"]], header["settings"], header["loss"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"path: {path} is no estimator saved by save(path): {error}") from None
    if fitted_with != repr(loss):
        raise UserError(f"loss: {path} was fitted with {fitted_with}, got {loss!r}")
    given["dtype"] = given["dtype"] and getattr(torch, given["dtype"])
    estimator = kind(model, **given, loss=loss)
    estimator._connect()
    network, state, answer = estimator._network, State(*header["model"]), None
    device, other = network.like.device, f"model: it is not the one that {path} was fitted on"
    if differs := state.changed(network):
        raise UserError(f"{other} ({', '.join(map(repr, differs[:3]))})")
    if header["examples"]:
        names, values, logits = _rebuilt(header["examples"], tensors, device)
        answer = Answer(values[0] if names == [""] else Rows(dict(zip(names, values, strict=True))), logits)
        if not answer.given_by(network):
            raise UserError(f"{other} (its logits are others, though its parameters are the same)")
    estimator._state = tuple(header["state"])
    for key, layout in header["state"].items():
        setattr(estimator, key, _rebuilt(layout, tensors, device))
    if header["newton_gain"] is not None:
        estimator.newton_gain_ = _rebuilt(header["newton_gain"], tensors, device)
    estimator.n_ = header["n"]
    estimator._as_fitted = AsFitted(state, answer, Marks(estimator.n_))
    return estimator


def _examples(estimator: Any) -> list | None:
    """The two examples by which the model is known, by the names of its arguments, and some of their logits."""
    x, logits = estimator._as_fitted.answer or (None, None)
    named = x.tensors if isinstance(x, Rows) else {"": x}
    return None if x is None or any(v.is_complex() for v in named.values()) else [[*named], [*named.values()], logits]


def _flattened(key: str, value: object, tensors: dict[str, Tensor]) -> object:
    """The value in JSON, a tensor as the key under which it stands in ``tensors``."""
    if isinstance(value, Tensor):
        tensors[key] = value.detach().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, list | tuple):
        return [_flattened(f"{key}.{i}", part, tensors) for i, part in enumerate(value)]
    return value


def _rebuilt(layout: object, tensors: dict[str, Tensor], device: torch.device) -> object:
    if isinstance(layout, dict):
        return tensors[layout["tensor"]].to(device)
    return [_rebuilt(part, tensors, device) for part in layout] if isinstance(layout, list) else layout
