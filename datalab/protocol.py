"""The protocol: ``protocol.yaml`` as an object, and its hash for the record."""

import functools
import hashlib
import json
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

PROFILES = ("smoke", "quick", "study", "paper")


class Protocol:
    """``protocol.yaml``, read-only: top-level keys are attributes, ``sha256`` is the hash of the file's bytes.

    ``rules_sha256`` leaves the profiles and the list of changes out: it changes only when a result could.
    """

    def __init__(self, raw: bytes):
        tree = read_yaml(raw)
        rules = {key: value for key, value in tree.items() if key not in ("profiles", "changes")}
        self.sha256 = hashlib.sha256(raw).hexdigest()
        self.rules_sha256 = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
        self._tree = frozen(tree)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_tree"][name]
        except KeyError:
            raise AttributeError(f"protocol.yaml has no '{name}'") from None


def read_yaml(text: str | bytes) -> Any:
    """``yaml.safe_load``, in C where PyYAML was built with it: a tenth of the time."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def frozen(node: Any) -> Any:
    """A tree of dicts and lists that cannot be changed."""
    if isinstance(node, dict):
        return MappingProxyType({key: frozen(value) for key, value in node.items()})
    return tuple(frozen(value) for value in node) if isinstance(node, list) else node


@functools.cache
def protocol() -> Protocol:
    """The protocol that ships with the package."""
    return Protocol(files("datalab").joinpath("protocol.yaml").read_bytes())
