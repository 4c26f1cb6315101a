"""Tapes: one forward pass of a batch, from which every layer's factors can be taken for any cotangent of the logits.

A :class:`Network` is a module or a stack of S models with its sites; all it returns has the models first: logits (S, m,
...). For a module hooks take the inputs, and gradients are asked for at each layer's output; attention runs as its own
four projections. That this is right is looked at: by every tape, that a parameter enters autograd's graph through its
layers alone; on a sample of each set, that factors add up to autograd's gradients, and that an example's logits reach
its own row of a layer and no other.
"""

import contextlib
import copy
import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn.parameter import is_lazy
from torch.utils.checkpoint import CheckpointError

from datalab.errors import UserError
from datalab.influence import layers
from datalab.influence.factors import Dense, Factors
from datalab.influence.layers import Site, Use
from datalab.mapped import MappedStack
from datalab.stack import Stack, Trace

T = TypeVar("T")
_UNSAVED = " of shape "  # a buffer that is not saved, such as a cache: one of another shape is another
_ALONE = 16  # examples of a sample that are also run alone
_ROUNDING = 2e3  # rounding errors of the dtype by which a sum over a sample may differ from autograd's


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


def tensors(values: Inputs | tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors that they are made of."""
    if isinstance(values, Rows):
        return list(values.tensors.values())
    return list(values) if isinstance(values, tuple) else [values]


def over(values: T, function: Callable[[Tensor], Tensor]) -> T:
    """``function`` of a tensor, or of each of several."""
    if isinstance(values, Rows):
        return values.map(function)
    return tuple(function(value) for value in values) if isinstance(values, tuple) else function(values)


def line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class LayerTape(Trace):
    """One batch of a stack: ``logits`` (S, m, ...), and each layer's factors for a cotangent shaped as these."""

    def factors(self, cotangent: Tensor) -> list[Factors]:
        pairs = zip(self.inputs, self.output_gradients(cotangent), self.biases, strict=True)
        return [Dense(a, g, a.shape[-1] + bias) for a, g, bias in pairs]


class Network:
    """A model, or a stack of them, whose layers are taken apart; it is not changed.

    The model may return what holds its logits as ``logits``. Parameters: see
    :class:`~datalab.influence.estimator.Estimator`. ``models`` is S, ``names`` and ``shapes``, (G, out, in) with G
    matrices a model, are the sites'; ``like`` is a parameter of the dtype and device of all results. ``infinite`` turns
    true, on the device, where logits were not finite since a verb began; ``given`` names the examples that it is given
    next, and says where in their set they stand, for refusals. Raises UserError for what
    :func:`~datalab.influence.layers.sites` does.
    """

    infinite, _by_tape = torch.zeros((), dtype=torch.bool), False
    cure = staticmethod(layers.left)  # the end of a refusal, from the names of what is in the way
    given: tuple[str, Sequence[int]] = "x", ()

    def __init__(self, model, leave_out: Sequence[str], dtype: torch.dtype | None, include_frozen: bool):
        if isinstance(model, MappedStack):
            raise UserError("model: of this architecture only LastLayerGGN takes a stack; list(stack) gives its models")
        self.is_stack = isinstance(model, Stack)
        if not isinstance(model, nn.Module | Stack):
            raise UserError(f"model: must be a torch.nn.Module or a datalab Stack, got a {type(model).__name__}")
        if self.is_stack:
            if leave_out or dtype not in (None, model.flat.dtype):
                raise UserError("model: a stack takes neither leave_out nor another dtype; train it in that dtype")
            self._take(*layers.sites(copy.deepcopy(model.module).eval().requires_grad_()))
            self._stack, self.models, self.like = model, len(model), model.flat
            return
        self.module, self.models = in_dtype(model, dtype), 1
        self._take(*layers.sites(self.module, leave_out, include_frozen))

    def _take(self, by_module: dict[str, list[Use]], sites: list[Site]) -> None:
        self._by_module, self.sites, self.names = by_module, sites, [site.name for site in sites]
        self.shapes, self.like = [tuple(site.arrange().shape) for site in sites], sites[0].arrange().detach()
        self._same_for_all: dict[tuple[str, int], int] = {}
        self.uses = {use for site in self.sites for use in site.uses}
        self.parameters = list({id(p): p for site in self.sites for p in site.parameters}.values())
        dtypes = {p.dtype for p in self.parameters}
        if dtypes - {torch.float32, torch.float64} or len(dtypes) > 1:
            names = " and ".join(sorted(str(of_some)[6:] for of_some in dtypes))
            raise UserError(f"model: computes in {names}; give dtype=torch.float32")

    def state(self) -> dict[str, str]:
        """What tells one state of the model from another: the SHA-256 of how it is built and what of it is taken, and
        of everything in its state dict, but what has no bytes at hand (sparse, quantised, lazy, or on ``meta``).
        """
        module = self._stack.module if self.is_stack else self.module
        named = self._stack.parameters if self.is_stack else module.state_dict(keep_vars=True)
        unsaved = {f"{name}{_UNSAVED}{tuple(v.shape)}": v for name, v in module.named_buffers() if name not in named}
        named = {**named, **unsaved}
        named = {name: v for name, v in named.items() if isinstance(v, Tensor)}
        first: dict[int, str] = {}
        tied = {name: first.setdefault(id(v), name) for name, v in named.items() if isinstance(v, nn.Parameter)}
        sites = [] if self._by_tape else [*zip(self.names, self.shapes, strict=True)]
        built = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(module)), tied, sites
        hashes = {"how it is built": hashlib.sha256(repr(built).encode())}
        for name, v in named.items():
            if not (is_lazy(v) or v.is_quantized or v.is_meta) and v.layout == torch.strided:
                hashes[name] = hashlib.sha256(f"{tuple(v.shape)} {v.dtype}".encode())
                plain = v.detach().cpu().resolve_conj().resolve_neg().contiguous()
                hashes[name].update(plain.flatten().view(torch.uint8).numpy())
        return {name: of_one.hexdigest() for name, of_one in hashes.items()}

    def changed(self, since: dict[str, str]) -> list[str]:
        """What of a state, as ``state`` gives it, is another now."""
        now = self.state()
        return [name for name, value in since.items() if now.get(name, value if _UNSAVED in name else None) != value]

    def answer(self, x: Inputs) -> Tensor:
        """Its logits of a few examples, at most 65,536 evenly spread among them, by which a model is known again."""
        logits = self.logits(x).flatten()
        return logits[torch.linspace(0, len(logits) - 1, min(len(logits), 1 << 16), dtype=torch.float64).long()]

    def answers(self, x: Inputs, before: Tensor) -> bool:
        """Whether it answers as before; not where it no longer takes these examples."""
        try:
            return close(self.answer(x), before)
        except Exception:  # the model is the caller's
            return False

    @property
    def n_parameters(self) -> int:
        """The number of parameters of one model that influence is taken over."""
        return sum(math.prod(shape) for shape in self.shapes)

    def logits(self, x: Inputs) -> Tensor:
        """(S, m, ...), without a tape."""
        with torch.no_grad():
            return self._noted(self._stack(x)) if self.is_stack else self._named(x, lambda: self.forward(x)[None])

    def _noted(self, logits: Tensor) -> Tensor:
        """The logits of any forward pass, once it is noted whether they are finite."""
        self.infinite = self.infinite | ~torch.isfinite(logits.detach().sum())
        return logits

    def _called(self, x: Inputs) -> object:
        try:
            return self.module(**x.tensors) if isinstance(x, Rows) else self.module(x)
        except RuntimeError as error:
            if "NestedTensor" not in str(error):
                raise
            cure = "build nn.TransformerEncoder with enable_nested_tensor=False"
            raise UserError(f"model: leaves padded rows out on the way; {cure}") from error

    def _named(self, x: Inputs, run: Callable[[], T]) -> T:
        """``run()``; what the model raises at an example, such as a token out of range, names it."""
        try:
            return run()
        except UserError:
            raise
        except (IndexError, ValueError, AssertionError, KeyError) as error:
            for i in range(len(x)):
                try:
                    with torch.no_grad():
                        self._called(x[i : i + 1])
                except type(error):
                    name, places = self.given
                    at = f"{name}[{int(places[i])}]"
                    raise UserError(f"{name}: the model does not take {at}: {line(error)}") from error
            raise

    def forward(self, x: Inputs) -> Tensor:
        """The module's logits (m, ...), differentiable."""
        versions = [v._version for v in tensors(x)]
        output = self._called(x)
        if [v._version for v in tensors(x)] != versions:
            raise UserError(f"model: writes into its input; {_COPY}")
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            raise UserError(f"model: returns a {type(output).__name__}, and one tensor of logits is needed")
        return self._noted(self._of_dtype("its logits are", logits))

    def _of_dtype(self, what: str, values: Tensor) -> Tensor:
        """The values; raises UserError where they are of another dtype than the parameters."""
        if values.dtype != self.like.dtype:
            dtype, own = str(values.dtype)[6:], str(self.like.dtype)[6:]
            raise UserError(f"model: {what} {dtype}, and its parameters {own}: switch autocast inside it off")
        return values

    def tape(self, x: Inputs) -> "ModuleTape | LayerTape":
        """Run the batch x (m, ...) forward."""
        if not self.is_stack:
            return self._named(x, lambda: self._taped(x))
        tape = LayerTape(*self._stack.trace(x))
        self._noted(tape.logits)
        return tape

    def total(self, x: Inputs, gradient: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The logits (S, m, ...) of a batch, and each site's sum over its examples, (S * G, out, in), of the gradients
        of the loss whose gradient in the logits ``gradient`` gives.
        """
        if self.is_stack or self._by_tape:
            tape = self.tape(x)
            return tape.logits, [f.total() for f in tape.factors(gradient(tape.logits))]
        with self.differentiable(), torch.enable_grad():
            logits = self._named(x, lambda: self.forward(x))[None]
            found = torch.autograd.grad(logits, self.parameters, gradient(logits.detach()), allow_unused=True)
        return logits.detach(), self._arranged(found)

    def _arranged(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """Each site's (G, out, in), from the parameters' gradients."""
        pairs = zip(self.parameters, gradients, strict=True)
        by_parameter = {id(p): torch.zeros_like(p) if g is None else g.to_dense() for p, g in pairs}
        return [site.arrange(*(by_parameter[id(p)] for p in site.parameters)).detach() for site in self.sites]

    def _taped(self, x: Inputs) -> "ModuleTape":
        try:
            return ModuleTape(self, x)
        except (UserError, IndexError, KeyError):
            raise
        except Exception as error:
            if not self._same_for_all:
                raise
            self._called(x)  # what the model raises by itself is its own
            names = list(dict.fromkeys(name for name, _ in self._same_for_all))
            what = f"the output of {layers.named(names)}, the same for all examples, is used as if it were one row"
            cure = f"(give position indices as (1, T), and add their output as it is); {layers.left(names)}"
            raise UserError(f"model: {what} {cure}") from error

    def probe(self, x: Inputs) -> None:
        """Look at how one example x (1, ...) passes through the layers.

        Layers whose input is the same however many examples there are, such as positions, are noted: a tape gives each
        example a copy of their output. Raises UserError where the layers that run depend on the number of examples.
        """
        if self.is_stack:
            return
        seen: list[dict[tuple[str, int], torch.Size]] = []  # of every layer's k-th run, the input's shape

        def note(use: Use, x: Tensor, output: Tensor) -> Tensor:
            if use in self.uses:
                seen[-1][use.name, sum(name == use.name for name, _ in seen[-1])] = x.shape
            return output

        for m in (2, 3):
            seen.append({})
            with self._recording(note), torch.no_grad():
                self.forward(x[torch.zeros(m, dtype=torch.long)])
        two, three = seen
        if two.keys() != three.keys():
            raise UserError("model: runs other layers for another number of examples; each must pass through the same")
        self._same_for_all = {k: len(a) + (a[0] != 1) for k, a in two.items() if a == three[k] and a.numel()}

    def check(self, x: Inputs) -> None:
        """Look at a sample x (m, ...) of a set: raises UserError for what a tape would score wrongly or not at all."""
        if self.is_stack:
            return
        plain, backwards = self.logits(x), torch.arange(len(x) - 1, -1, -1)
        apart = torch.cat([self.logits(x[part]) for part in backwards.split((len(x) + 1) // 2)], 1).flip(1)
        alone = (close(self.logits(x[i : i + 1]), plain[:, i : i + 1]) for i in range(min(len(x), _ALONE)))
        if not (close(apart, plain) and all(alone)):
            if not close(self.logits(x), plain):
                raise UserError("model: its forward pass is random (dropout inside it?); call model.eval() first")
            raise UserError(_MIXES)
        leaves = [v.detach().requires_grad_() for v in tensors(x) if v.is_floating_point()]
        copies = iter(leaves)
        with torch.enable_grad():  # copies, as a leaf may not be written into
            tape = self._taped(over(x, lambda v: next(copies).clone() if v.is_floating_point() else v))
        if not bool(torch.isfinite(plain).all()):
            return  # named, with how many more there are, when the whole set has been read
        if not close(tape.logits, plain):
            raise UserError("model: its layers compute something else under a tape; does one of them act by its name?")
        cotangent = torch.randn(plain.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(plain)
        self._compare(tape, cotangent)
        places = torch.arange(plain.shape[1], device=plain.device)
        for bit in range(int(places[-1]).bit_length()):
            inside = (places >> bit) & 1 == 1
            rows = inside.view(1, -1, *[1] * (plain.dim() - 2))
            at_leaves, at_layers = tape.gradients(cotangent * rows, leaves)
            if any(bool((g[~inside] != 0).any()) for g in at_leaves if g is not None):
                raise UserError(_MIXES)
            pairs = zip(tape.records, at_layers, strict=True)
            wrong = list(dict.fromkeys(record.use.layer for record, g in pairs if bool((g[~inside] != 0).any())))
            if wrong:
                what = f"examples change places, or are mixed, on their way through {layers.named(wrong)}"
                raise UserError(f"model: {what}; row i must stay example i in every layer")

    def _compare(self, tape: "ModuleTape", cotangent: Tensor) -> None:
        """Each site's gradient by its factors with autograd's."""
        with self.differentiable():
            gradients, at_layers = tape.gradients(cotangent, self.parameters)
        eps = _ROUNDING * torch.finfo(cotangent.dtype).eps
        wrong = []
        for site, f, wanted in zip(self.sites, tape.of_sites(at_layers), self._arranged(gradients), strict=True):
            if not bool(torch.isfinite(wanted).all()):
                of = f"gradients of finite logits of {self.given[0]}"
                raise UserError(f"model: {of} are not finite (the root of 0, or 0 * infinity?)")
            # Rounding in a sum of gradients is relative to that of their sizes.
            largest = max(float(part.map(torch.abs).total().max()) for part, _ in f.parts)
            if not float((f.total() - wanted).abs().max()) <= eps * largest:
                wrong.append(site.layer)
        if wrong:
            what = "computes something else than its kind does"
            raise UserError(f"model: {layers.named(wrong)}: {what}; {layers.left(wrong)}")

    @contextlib.contextmanager
    def differentiable(self) -> Iterator[None]:
        """Within, autograd takes every parameter of a site, frozen ones too, and no other."""
        taken = {id(p) for p in self.parameters}
        with contextlib.ExitStack() as stack:
            for p in self.module.parameters():
                stack.callback(p.requires_grad_, p.requires_grad)
                p.requires_grad_(id(p) in taken)
            yield

    @contextlib.contextmanager
    def _recording(self, record: Callable[[Use, Tensor, Tensor], Tensor]) -> Iterator[None]:
        """Within, ``record`` is told of every use's input and output, and gives the output that counts."""
        with contextlib.ExitStack() as stack:
            for name, uses in self._by_module.items():
                module = self.module.get_submodule(name)
                if isinstance(module, nn.MultiheadAttention):
                    module.forward = functools.partial(_attention, record, module, uses)
                    stack.callback(delattr, module, "forward")
                else:
                    hook = functools.partial(_hook, record, uses[0])
                    stack.enter_context(module.register_forward_hook(hook, with_kwargs=True, prepend=True))
            yield

    def values(self) -> list[Tensor]:
        """Every site's parameters, (S * G, out, in), in the order of a tape's factors."""
        if self.is_stack:
            named = self._stack.parameters
            weights = {name: named[f"{name}.weight"].flatten(2) for name in self.names}
            return [layers.with_bias(w, named.get(f"{name}.bias")) for name, w in weights.items()]
        return [site.arrange().detach() for site in self.sites]

    def flatten(self, directions: list[Tensor]) -> Tensor:
        """(S, k, P) from each site's (S * G, k, out, in)."""
        return torch.cat([d.unflatten(0, (self.models, -1)).transpose(1, 2).flatten(2) for d in directions], 2)

    def unflatten(self, flat: Tensor) -> list[Tensor]:
        """Each site's (S * G, k, out, in) from (S, k, P)."""
        parts = zip(flat.split([math.prod(shape) for shape in self.shapes], dim=2), self.shapes, strict=True)
        return [part.unflatten(2, shape).transpose(1, 2).flatten(0, 1) for part, shape in parts]

    def over_groups(self, values: Tensor) -> Tensor:
        """The sum (S, ...) of (S * G, ...) over each model's G matrices."""
        return values.unflatten(0, (self.models, -1)).sum(1)


class _Record(NamedTuple):
    """One use in one forward pass: what multiplied, and where the gradient of the output is to be had."""

    use: Use
    inputs: Tensor
    version: int  # of the inputs, which may be a view of what the model works on
    edge: GradientEdge
    nodes: set[Node]  # of autograd's graph, between the input and the output


def _hook(record: Callable, use: Use, _: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
    return record(use, args[0] if args else next(iter(kwargs.values())), output)


class ModuleTape:
    """Of a module: a record of every use that the logits depend on."""

    def __init__(self, network: Network, x: Inputs):
        self._network, self._m = network, len(x)
        self._seen: dict[Use, list[_Record]] = {}
        with network.differentiable(), network._recording(self._record), torch.enable_grad():
            logits = network.forward(x)
            if not logits.requires_grad:
                raise UserError("model: its logits are cut off from its layers (torch.no_grad or detach inside it)")
            self.logits, self.edge = logits[None], get_gradient_edge(logits)
            reached = self._walk(logits)
        self.records = [r for of_use in self._seen.values() for r in of_use if r.edge.node in reached]
        if written := [r.use.layer for r in self.records if r.inputs._version != r.version]:
            raise UserError(f"model: writes into what {layers.named(written)} took, after it ran; {_COPY}")
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
        self._network._of_dtype(f"layer '{use.name}' computes in", output)
        earlier = self._seen.setdefault(use, [])
        nodes = between(output, get_gradient_edge(x).node if x.requires_grad else None)
        dimensions = self._network._same_for_all.get((use.name, len(earlier)))
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
            found = torch.autograd.grad(self.logits, wanted, cotangent, retain_graph=True, allow_unused=True)
        except CheckpointError:
            raise UserError("model: a checkpoint recomputes another forward pass; switch checkpointing off") from None
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise UserError(f"model: writes into what its gradient needs; {_COPY}") from error
        return list(found[: len(leaves)]), list(found[len(leaves) :])

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


_COPY = "let it work on a copy, x.clone()"
_MIXES = "model: mixes the examples of a batch (batch statistics?); each must have its own logits"


def in_dtype(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """The model, or where its parameters are of another dtype a copy in this one."""
    if dtype is None or all(p.dtype == dtype for p in model.parameters()):
        return model
    of = {True: dtype.to_complex(), False: dtype}  # ``to(dtype)`` drops the imaginary part of a buffer
    return copy.deepcopy(model)._apply(lambda v: v.to(of[c]) if (c := v.is_complex()) or v.is_floating_point() else v)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether logits are the same but for rounding; where they are not finite nothing is said.

    Rounding is relative to a logit, or to three quarters of those that differ: a masked one of -1e9 excuses no other.
    """
    if a.shape != b.shape:
        return False
    at = torch.isfinite(a) & torch.isfinite(b) & (a != b)
    size, apart = b[at].abs(), (a - b)[at].abs()
    usual = size.kthvalue(-(-3 * len(size) // 4)).values if len(size) else size
    return bool((apart <= torch.finfo(b.dtype).eps ** 0.5 * torch.maximum(size, usual) + 1e-12).all())


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
