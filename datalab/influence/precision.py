"""TF32 off: on recent GPUs torch may round the factors of a product to 10 bits, which influence does not survive."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_precision(allow_tf32: bool = False) -> Iterator[None]:
    """Within, float32 products and convolutions on CUDA are computed in float32, unless TF32 is asked for."""
    wanted = "tf32" if allow_tf32 else "ieee"
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = wanted
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
