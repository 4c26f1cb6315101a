"""Tapes: one forward pass of a batch, from which every layer's factors can be taken for any cotangent of the logits.

A :class:`Network` is a module or a stack of S models with its sites; all it returns has the models first: logits (S, m,
C). For a module hooks take the inputs, and gradients are asked for at each layer's output, so nothing depends on what
follows it. Attention runs as its own four projections while a tape is made. torch.func is the tests' oracle, not used
here.
"""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence import layers
from datalab.influence.factors import Dense, Factors
from datalab.influence.layers import LinearSite, Site
from datalab.mapped import MappedStack
from datalab.stack import Stack


class Rows:
    """The keyword arguments of a model, tensors (n, ...), counted and sliced as one."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, at: slice | Tensor) -> "Rows":
        return self.map(lambda v: v[at])

    def map(self, function: Callable[[Tensor], Tensor]) -> "Rows":
        return Rows({name: function(v) for name, v in self.tensors.items()})


Inputs = Tensor | Rows


class Tape(Protocol):
    """One batch: ``logits`` (S, m, C), and the factors of every site for a cotangent (S, m, C) of the logits."""

    logits: Tensor

    def factors(self, cotangent: Tensor) -> list[Factors]: ...


class Network:
    """A model, or a stack of them, whose layers are taken apart.

    Parameters
    ----------
    model
        Maps x (m, ...) to logits (m, C), or a :class:`~datalab.stack.Stack`. It is not changed.
    leave_out
        Names of modules or parameters whose influence is not asked for.
    dtype
        Compute in this precision, on a copy; None: in the model's.

    ``models`` is S, ``shapes`` each site's (G, out, in) with G matrices a model, ``like`` a parameter of the dtype and
    device of all results. Raises UserError for what is not taken, see :func:`~datalab.influence.layers.sites`.
    """

    def __init__(self, model: nn.Module | Stack, leave_out: Sequence[str] = (), dtype: torch.dtype | None = None):
        if isinstance(model, MappedStack):
            raise UserError("model: of this architecture only LastLayerGGN takes a stack; list(stack) gives its models")
        self.is_stack = isinstance(model, Stack)
        if self.is_stack:
            if leave_out or dtype not in (None, model.flat.dtype):
                raise UserError("model: a stack takes neither leave_out nor another dtype; train it in that dtype")
            self._stack, self.models, self.like = model, len(model), model.flat
            template = layers.sites(copy.deepcopy(model.module).eval())
            self.shapes = [tuple(site.matrix().shape) for of_module in template.values() for site in of_module]
            return
        self.module, self.models = in_dtype(model, dtype), 1
        self._by_module = layers.sites(self.module, leave_out)
        self.sites = [site for of_module in self._by_module.values() for site in of_module]
        self.shapes = [tuple(site.matrix().shape) for site in self.sites]
        self.like = self.sites[0].matrix().detach()
        if self.like.dtype not in (torch.float32, torch.float64):
            raise UserError(f"model: computes in {str(self.like.dtype)[6:]}; give dtype=torch.float32")

    @property
    def n_parameters(self) -> int:
        """The number of parameters of one model that influence is taken over."""
        return sum(g * out * n_in for g, out, n_in in self.shapes)

    def logits(self, x: Inputs) -> Tensor:
        """(S, m, C), without a tape."""
        with torch.no_grad():
            output = self._stack(x) if self.is_stack else self.forward(x)
        if not isinstance(output, Tensor):
            raise TypeError(f"it returns a {type(output).__name__}, and one tensor of logits is needed")
        return output if self.is_stack else output[None]

    def forward(self, x: Inputs) -> Tensor:
        """The module's logits (m, ...), differentiable."""
        return self.module(**x.tensors) if isinstance(x, Rows) else self.module(x)

    def tape(self, x: Inputs) -> Tape:
        """Run the batch x (m, ...) forward."""
        return _StackTape(self._stack, x) if self.is_stack else _ModuleTape(self, x)

    def probe(self, x: Inputs) -> None:
        """Look at one or two examples x (m, ...): raises UserError for what a tape would score wrongly or not at all.

        Positions that pass for examples, examples that are mixed, a forward pass that is random, and parameters that
        act elsewhere than in their own layer, or not at all.
        """
        if self.is_stack:
            return
        refuse_mixing(self.logits, x)
        with self.differentiable():
            self._compare(self.tape(x[:1]))

    @contextlib.contextmanager
    def differentiable(self) -> Iterator[None]:
        """Within, autograd takes every parameter, frozen ones too."""
        frozen = [p for p in self.parameters() if not p.requires_grad]
        try:
            for p in frozen:
                p.requires_grad_(True)
            yield
        finally:
            for p in frozen:
                p.requires_grad_(False)

    def _compare(self, tape: Tape) -> None:
        """Each site's gradient by its factors with autograd's."""
        cotangent = torch.linspace(-1, 1, tape.logits.shape[-1]).to(tape.logits).expand_as(tape.logits)
        parameters = self.parameters()
        gradients = torch.autograd.grad(tape.logits, parameters, cotangent, retain_graph=True, allow_unused=True)
        by_parameter = {id(p): g for p, g in zip(parameters, gradients, strict=True)}
        for site, f in zip(self.sites, tape.factors(cotangent), strict=True):
            wanted = [by_parameter[id(p)] for p in site.parameters()]
            if any(g is None for g in wanted):
                raise UserError(f"model: layer '{site.name}' is cut off from the logits; leave it out")
            wanted = site.arrange(*wanted)
            if not torch.allclose(f.total(), wanted, rtol=1e-2, atol=1e-3 * float(wanted.abs().max())):
                raise UserError(f"model: the parameters of layer '{site.name}' act outside its forward pass as well")

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the sites' matrices are made of, each once."""
        return list({id(p): p for site in self.sites for p in site.parameters()}.values())

    def values(self) -> list[Tensor]:
        """Every site's parameters, (S * G, out, in), in the order of a tape's factors."""
        if self.is_stack:
            named = self._stack.parameters
            weights = {name.removesuffix("weight"): w for name, w in named.items() if name.endswith(".weight")}
            return [layers.with_bias(w.flatten(2), named.get(f"{layer}bias")) for layer, w in weights.items()]
        return [site.matrix().detach() for site in self.sites]

    def flatten(self, directions: list[Tensor]) -> Tensor:
        """(S, k, P) from each site's (S * G, k, out, in)."""
        parts = [
            d.unflatten(0, (self.models, g)).transpose(1, 2).flatten(2)
            for d, (g, _, _) in zip(directions, self.shapes, strict=True)
        ]
        return torch.cat(parts, 2)

    def unflatten(self, flat: Tensor) -> list[Tensor]:
        """Each site's (S * G, k, out, in) from (S, k, P)."""
        parts = flat.split([g * out * n_in for g, out, n_in in self.shapes], dim=2)
        return [
            part.unflatten(2, shape).transpose(1, 2).flatten(0, 1)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def over_groups(self, values: Tensor) -> Tensor:
        """The sum (S, ...) of (S * G, ...) over each model's G matrices."""
        return values.unflatten(0, (self.models, -1)).sum(1)


class _ModuleTape:
    def __init__(self, network: Network, x: Inputs):
        by_module = network._by_module
        self._sites = [site for of_module in by_module.values() for site in of_module]
        self._inputs: dict[str, Tensor] = {}
        self._edges: dict[str, torch.autograd.graph.GradientEdge] = {}
        self._m = len(x)
        with self._recording(network.module, by_module), torch.enable_grad():
            logits = network.forward(x.map(_leaf) if isinstance(x, Rows) else _leaf(x))
            self.logits = logits[None]
        for site in self._sites:
            if site.name not in self._edges:
                raise UserError(f"model: layer '{site.name}' took no part in the forward pass; leave it out")
        if not self.logits.requires_grad:
            raise UserError("model: its logits are cut off from its layers (torch.no_grad or detach inside the model)")

    @contextlib.contextmanager
    def _recording(self, model: nn.Module, by_module: dict[str, list[Site]]) -> Iterator[None]:
        handles, replaced = [], []
        try:
            for name, sites in by_module.items():
                module = model.get_submodule(name)
                if isinstance(module, nn.MultiheadAttention):
                    module.forward = functools.partial(_attention, self.record, module, sites)
                    replaced.append(module)
                else:
                    hook = functools.partial(self._hook, sites[0])
                    handles.append(module.register_forward_hook(hook, with_kwargs=True, prepend=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in replaced:
                del module.forward

    def _hook(self, site: Site, _: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
        return self.record(site, args[0] if args else next(iter(kwargs.values())), output)

    def record(self, site: Site, x: Tensor, output: Tensor) -> Tensor:
        """Note a site's input x and where the gradient of its output is to be had; return the output."""
        if site.name in self._edges:
            raise UserError(f"model: layer '{site.name}' runs twice in a forward pass; each layer may run once")
        if len(x) != self._m:
            raise UserError(
                f"model: layer '{site.name}' takes {tuple(x.shape)} for {self._m} examples; they must come first"
            )
        with torch.no_grad():
            self._inputs[site.name] = site.inputs(x.detach())
        if not output.requires_grad:  # a frozen first layer
            output = output.detach().clone().requires_grad_()
        # The edge stays that of this output whatever works on it in place.
        self._edges[site.name] = torch.autograd.graph.get_gradient_edge(output)
        return output

    def factors(self, cotangent: Tensor) -> list[Factors]:
        edges = [self._edges[site.name] for site in self._sites]
        gradients = torch.autograd.grad(self.logits, edges, cotangent, retain_graph=True, allow_unused=True)
        for site, g in zip(self._sites, gradients, strict=True):
            if g is None:
                raise UserError(f"model: layer '{site.name}' is cut off from the logits; leave it out")
        return [site.factors(self._inputs[site.name], g) for site, g in zip(self._sites, gradients, strict=True)]


class _StackTape:
    def __init__(self, stack: Stack, x: Tensor):
        self._trace = stack.trace(x)
        self.logits = self._trace.logits

    def factors(self, cotangent: Tensor) -> list[Factors]:
        gradients = self._trace.output_gradients(cotangent)
        return [Dense(a, g, bias) for a, g, bias in zip(self._trace.inputs, gradients, self._trace.biases, strict=True)]


def tensors(x: Inputs) -> list[Tensor]:
    """The tensors that x is made of."""
    return list(x.tensors.values()) if isinstance(x, Rows) else [x]


def _leaf(v: Tensor) -> Tensor:
    return v.detach().requires_grad_(v.is_floating_point())


def _leaf(v: Tensor) -> Tensor:
    return v.detach().requires_grad_(v.is_floating_point())


def in_dtype(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """The model, or where its parameters are of another dtype a copy in this one."""
    if dtype is None or all(p.dtype == dtype for p in model.parameters()):
        return model
    return copy.deepcopy(model).to(dtype)


def refuse_mixing(logits: Callable[[Inputs], Tensor], x: Inputs) -> None:
    """Raise UserError where the logits of the first example of x depend on the second, or on chance."""
    alone = x[:1]
    first = logits(alone)[:, 0]
    tolerance = 1e-3 * float(first.abs().max()) + 1e-12
    if not torch.allclose(logits(alone)[:, 0], first, rtol=0, atol=tolerance):
        raise UserError("model: its forward pass is random (dropout inside it?); call model.eval() first")
    if not torch.allclose(logits(x)[:, 0], first, rtol=0, atol=tolerance):
        raise UserError("model: mixes the examples of a batch (batch statistics?); each must have its own logits")


def _attention(
    record,
    module: nn.MultiheadAttention,
    sites: list[LinearSite],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Equivalent to ``module.forward``, with each projection recorded."""
    if query.dim() != 3:
        raise UserError(f"model: layer '{sites[0].name[:-2]}' takes {tuple(query.shape)}; it must be a batch")
    if not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    q, k, v = (
        record(site, x, site.apply(x)).unflatten(2, (module.num_heads, -1)).transpose(1, 2)
        for site, x in zip(sites, (query, key, value), strict=False)
    )
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if is_causal and attn_mask is None:
        attn_mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
    if attn_mask is not None:
        scores = scores + _additive(attn_mask if attn_mask.dim() == 2 else attn_mask.view_as(scores), scores)
    if key_padding_mask is not None:
        scores = scores + _additive(key_padding_mask[:, None, None], scores)
    weights = torch.softmax(scores, -1)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    output = record(sites[3], mixed, sites[3].apply(mixed))
    if not module.batch_first:
        output = output.transpose(0, 1)
    if not need_weights:
        return output, None
    return output, weights.mean(1) if average_attn_weights else weights


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask whose True entries shut out, as numbers to be added."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(mask, float("-inf"))
