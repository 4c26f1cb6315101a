"""DATA-LAB: the package behind the notebooks. It holds the influence code, the models, the protocol and the record."""

__version__ = "0.1.0"
