"""Tapes: one forward pass of a batch, from which every layer's factors can be taken for any cotangent of the logits.

For a module hooks take the inputs, and gradients are asked for at each layer's output; attention runs as its own four
projections.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils.checkpoint import CheckpointError

from datalab.errors import UserError
from datalab.influence import layers
from datalab.influence.factors import Dense, Factors
from datalab.influence.layers import Use
from datalab.influence.sets import Inputs
from datalab.stack import Trace

COPY = "let it work on a copy, x.clone()"


class LayerTape(Trace):
    """One batch of a stack: ``logits`` (S, m, ...), and each layer's factors for a cotangent shaped as these."""

    def factors(self, cotangent: Tensor) -> list[Factors]:
        pairs = zip(self.inputs, self.output_gradients(cotangent), self.biases, strict=True)
        return [Dense(a, g, a.shape[-1] + bias) for a, g, bias in pairs]


class _Record(NamedTuple):
    """One use in one forward pass: what multiplied, and where the gradient of the output is to be had."""

    use: Use
    inputs: Tensor
    version: int  # of the inputs, which may be a view of what the model works on
    edge: GradientEdge
    nodes: set[Node]  # of autograd's graph, between the input and the output


@contextlib.contextmanager
def differentiable(module: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within, autograd takes these parameters of a module, frozen ones too, and no other."""
    taken = {id(p) for p in parameters}
    with contextlib.ExitStack() as stack:
        for p in module.parameters():
            stack.callback(p.requires_grad_, p.requires_grad)
            p.requires_grad_(id(p) in taken)
        yield


@contextlib.contextmanager
def recording(
    model: nn.Module, by_module: Mapping[str, list[Use]], record: Callable[[Use, Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Within, ``record`` is told of every use's input and output, and gives the output that counts."""

    def hook(use: Use, _: nn.Module, args: tuple, named: dict, output: Tensor) -> Tensor:
        return record(use, (*args, *named.values())[0], output)

    with contextlib.ExitStack() as stack:
        for name, uses in by_module.items():
            module = model.get_submodule(name)
            if isinstance(module, nn.MultiheadAttention):
                module.forward = functools.partial(_attention, record, module, uses)
                stack.callback(delattr, module, "forward")
            else:
                by_hook = functools.partial(hook, uses[0])
                stack.enter_context(module.register_forward_hook(by_hook, with_kwargs=True, prepend=True))
        yield


class ModuleTape:
    """Of the module of a network: a record of every use that the logits depend on."""

    def __init__(self, network: Any, x: Inputs):
        self._network, self._m = network, len(x)
        self._seen: dict[Use, list[_Record]] = {}
        recorded = recording(network.module, network.by_module, self._record)
        with differentiable(network.module, network.parameters), recorded, torch.enable_grad():
            logits = network.forward(x)
            if not logits.requires_grad:
                raise UserError("model: its logits are cut off from its layers (torch.no_grad or detach inside it)")
            self.logits, self.edge = logits[None], get_gradient_edge(logits)
            reached = self._walk(logits)
        self.records = [r for of_use in self._seen.values() for r in of_use if r.edge.node in reached]
        if written := [r.use.layer for r in self.records if r.inputs._version != r.version]:
            raise UserError(f"model: writes into what {layers.named(written)} took, after it ran; {COPY}")
        at = list(enumerate(self.records))
        self._of_site = [[i for use in site.uses for i, r in at if r.use is use] for site in network.sites]
        pairs = zip(network.sites, self._of_site, strict=True)
        missing = {site.layer: not self._seen.keys().isdisjoint(site.uses) for site, records in pairs if not records}
        if missing:
            why = "without a path to the logits" if any(missing.values()) else "no part of the forward pass"
            raise UserError(f"model: {layers.named(missing)}: {why}; {layers.left(missing)}")

    def _record(self, use: Use, x: Tensor, output: Tensor) -> Tensor:
        if use not in self._network.uses:
            return output
        if not (isinstance(x, Tensor) and isinstance(output, Tensor)):
            raise UserError(f"model: layer '{use.layer}' must map a tensor to a tensor; {layers.left([use.layer])}")
        if not output.requires_grad:
            why = "(torch.no_grad, or a checkpoint with use_reentrant=True, inside the model)"
            cure = "take that away, or leave the layer out"
            raise UserError(f"model: layer '{use.name}' runs without gradients {why}; {cure}")
        self._network.of_dtype(f"layer '{use.name}' computes in", output)
        earlier = self._seen.setdefault(use, [])
        nodes = between(output, get_gradient_edge(x).node if x.requires_grad else None)
        dimensions = self._network.same_for_all.get((use.name, len(earlier)))
        if dimensions is not None:
            x, output = (v[None] if x.dim() < dimensions else v for v in (x, output))
            if len(x) != self._m:
                x, output = (v.expand(self._m, *v.shape[1:]) for v in (x, output))
        if len(x) != self._m or len(output) != self._m:
            shape = tuple(x.shape)
            raise UserError(f"model: layer '{use.name}' takes {shape} for {self._m} examples; they must come first")
        with torch.no_grad():
            inputs = use.inputs(x.detach())
        # The edge stays that of this output whatever works on it in place.
        earlier.append(_Record(use, inputs, inputs._version, get_gradient_edge(output), nodes))
        return output

    def _walk(self, logits: Tensor) -> set[Node]:
        """All nodes that the logits depend on; raises UserError where a parameter enters outside its layers."""
        network = self._network
        names = {id(p): name for name, p in network.module.named_parameters()}
        entry = {get_gradient_edge(p).node: id(p) for p in network.parameters}
        own: dict[int, set[Node]] = {at: set() for at in entry.values()}
        for use, of_use in self._seen.items():
            for part in (use.weight, use.bias):
                if part is not None and id(part[0]) in own:
                    own[id(part[0])].update(*(record.nodes for record in of_use))
        reached = between(logits)
        into = ((node, entry.get(following)) for node in reached for following, _ in node.next_functions)
        outside = sorted({names[at] for node, at in into if at is not None and node not in own[at]})
        if outside:
            what = f"parameters {', '.join(map(repr, outside))} act outside their layer's forward pass"
            raise UserError(f"model: {what}; {network.cure(outside)}")
        return reached

    def gradients(self, cotangent: Tensor, leaves: Sequence[Tensor] = ()) -> tuple[list[Tensor | None], list[Tensor]]:
        """At the leaves, and at every record's output."""
        wanted = [*leaves, *(record.edge for record in self.records)]
        try:
            gradients = torch.autograd.grad(self.logits, wanted, cotangent, retain_graph=True, allow_unused=True)
        except CheckpointError:
            raise UserError("model: a checkpoint recomputes another forward pass; switch checkpointing off") from None
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise UserError(f"model: writes into what its gradient needs; {COPY}") from error
        return list(gradients[: len(leaves)]), list(gradients[len(leaves) :])

    def factors(self, cotangent: Tensor) -> list[Factors]:
        return self.of_sites(self.gradients(cotangent)[1])

    def of_sites(self, gradients: list[Tensor]) -> list[Factors]:
        """Every site's factors from the gradients at every record's output."""
        pairs = [(record.use, record.inputs, g) for record, g in zip(self.records, gradients, strict=True)]
        sites = zip(self._network.sites, self._of_site, strict=True)
        return [site.factors([pairs[i] for i in records]) for site, records in sites]


def between(output: Tensor, start: Node | None = None) -> set[Node]:
    """The nodes of autograd's graph from ``start``, such as a layer's input, to an output."""
    nodes, stack = set(), [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node is not start and node not in nodes:
            nodes.add(node)
            stack += [following for following, _ in node.next_functions]
    return nodes


def _attention(
    record, module, uses, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
    average_attn_weights=True, is_causal=False,
):  # fmt: skip
    """Equivalent to ``module.forward``, with each projection recorded."""
    if query.dim() != 3:
        raise UserError(f"model: layer '{uses[0].layer}' takes {tuple(query.shape)}; it must be a batch")
    turned = (lambda x: x) if module.batch_first else (lambda x: x.transpose(0, 1))
    q, k, v = (
        record(use, turned(x), use.apply(turned(x))).unflatten(2, (module.num_heads, -1)).transpose(1, 2)
        for use, x in zip(uses, (query, key, value), strict=False)
    )
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if is_causal and attn_mask is None:
        attn_mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
    if attn_mask is not None and attn_mask.dim() != 2:
        attn_mask = attn_mask.view_as(scores)
    for mask in (attn_mask, None if key_padding_mask is None else key_padding_mask[:, None, None]):
        if mask is not None:  # true entries are shut out, numbers are added
            scores = scores.masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    weights = torch.softmax(scores, -1)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    output = turned(record(uses[3], mixed, uses[3].apply(mixed)))
    weights = weights.mean(1) if average_attn_weights else weights
    return output, weights if need_weights else None
