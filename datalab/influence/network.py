"""A model, or a stack of them, whose layers are taken apart: how it runs, and how it is looked at first.

All that a :class:`Network` returns has the models first: logits (S, m, ...). That its factors are right is looked at:
by every tape, that a parameter enters autograd's graph through its layers alone; on a sample of each set, that factors
add up to autograd's gradients, and that an example's logits reach its own row of a layer and no other.
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence import layers
from datalab.influence.layers import Site, Use
from datalab.influence.sets import Inputs, Rows, T, line, over, tensors
from datalab.influence.tape import COPY, LayerTape, ModuleTape, differentiable, recording
from datalab.mapped import MappedStack
from datalab.stack import Stack

_ALONE = 16  # examples of a sample that are also run alone
_AGAIN = 32  # passes of a sample by a model that draws random numbers, though none of its modules is in train mode
_ROUNDING = 2e3  # rounding errors of the dtype by which a sum over a sample may differ from autograd's
NESTED = "model: leaves padded rows out on the way; build nn.TransformerEncoder with enable_nested_tensor=False"
_MIXES = "model: mixes the examples of a batch (batch statistics?); each must have its own logits"


class Network:
    """A model, or a stack of them, whose layers are taken apart; it is not changed.

    The model may return what holds its logits as ``logits``. Parameters: see
    :class:`~datalab.influence.estimator.Estimator`. ``models`` is S, ``names`` and ``shapes``, (G, out, in) with G
    matrices a model, are the sites'; ``like`` is a parameter of the dtype and device of all results. ``infinite`` turns
    true, on the device, where logits were not finite since a verb began; ``given`` names the examples that it is given
    next, and says where in their set they stand, for refusals; ``by_tape``: its sites are known from an example on, and
    gradients are a tape's alone. Raises UserError for what :func:`~datalab.influence.layers.sites` does.
    """

    infinite, by_tape = torch.zeros((), dtype=torch.bool), False
    cure = staticmethod(layers.left)  # the end of a refusal, from the names of what is in the way
    given: tuple[str, Sequence[int]] = "x", ()
    sites: Sequence[Site] = ()

    def __init__(self, model, leave_out: Sequence[str], dtype: torch.dtype | None, include_frozen: bool):
        if isinstance(model, MappedStack):
            raise UserError("model: of this architecture only LastLayerGGN takes a stack; list(stack) gives its models")
        self.is_stack = isinstance(model, Stack)
        if not isinstance(model, nn.Module | Stack):
            raise UserError(f"model: must be a torch.nn.Module or a datalab Stack, got a {type(model).__name__}")
        if self.is_stack and (leave_out or dtype not in (None, model.flat.dtype)):
            raise UserError("model: a stack takes neither leave_out nor another dtype; train it in that dtype")
        self._hold(model, dtype)
        self._take(*layers.sites(self.module, leave_out, include_frozen or self.is_stack))

    def _hold(self, model: nn.Module | Stack | MappedStack, dtype: torch.dtype | None) -> None:
        """What runs: the model, or a stack, of whose models ``module`` is then the form."""
        if self.is_stack:
            self._stack, self.models, self.module = model, len(model), copy.deepcopy(model.module).to(model.flat).eval()
        else:
            as_it_is = dtype is None or all(p.dtype == dtype for p in model.parameters())
            self.models, self.module = 1, model if as_it_is else copied(model, dtype)

    def _take(self, by_module: dict[str, list[Use]], sites: list[Site]) -> None:
        self.by_module, self.sites, self.names = by_module, sites, [site.name for site in sites]
        self.shapes, self.like = [tuple(site.arrange().shape) for site in sites], sites[0].arrange().detach()
        self.same_for_all: dict[tuple[str, int], int] = {}
        self.uses = {use for site in self.sites for use in site.uses}
        self.parameters = list({id(p): p for site in self.sites for p in site.parameters}.values())
        dtypes = {p.dtype for p in self.parameters}
        if dtypes - {torch.float32, torch.float64} or len(dtypes) > 1:
            names = " and ".join(sorted(str(of_some)[6:] for of_some in dtypes))
            complex_ = any(dtype.is_complex for dtype in dtypes)
            cure = "no complex model is taken" if complex_ else "give dtype=torch.float32"
            raise UserError(f"model: computes in {names}; {cure}")

    def named(self) -> dict[str, Tensor]:
        """All tensors of the model's state dict, or the stack's parameters."""
        named = self._stack.parameters if self.is_stack else self.module.state_dict(keep_vars=True)
        return {name: v for name, v in named.items() if isinstance(v, Tensor)}

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
        return self.module(**x.tensors) if isinstance(x, Rows) else self.module(x)

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
            raise UserError(f"model: writes into its input; {COPY}")
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            raise UserError(f"model: returns a {type(output).__name__}, and one tensor of logits is needed")
        return self._noted(self.of_dtype("its logits are", logits))

    def of_dtype(self, what: str, values: Tensor) -> Tensor:
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
        if self.is_stack or self.by_tape:
            tape = self.tape(x)
            return tape.logits, [f.total() for f in tape.factors(gradient(tape.logits))]
        with differentiable(self.module, self.parameters), torch.enable_grad():
            logits = self._named(x, lambda: self.forward(x))[None]
            gradients = torch.autograd.grad(logits, self.parameters, gradient(logits.detach()), allow_unused=True)
        return logits.detach(), self.arranged(gradients)

    def arranged(self, values: Sequence[Tensor | None]) -> list[Tensor]:
        """Each site's (G, out, in), from values shaped as the parameters, such as gradients; None are zeros."""
        pairs = zip(self.parameters, values, strict=True)
        by_parameter = {id(p): torch.zeros_like(p) if v is None else v.to_dense() for p, v in pairs}
        return [site.arrange(*(by_parameter[id(p)] for p in site.parameters)).detach() for site in self.sites]

    def _taped(self, x: Inputs) -> "ModuleTape":
        try:
            return ModuleTape(self, x)
        except (UserError, IndexError, KeyError):
            raise
        except Exception as error:
            if not self.same_for_all:
                raise
            self._called(x)  # what the model raises by itself is its own
            names = list(dict.fromkeys(name for name, _ in self.same_for_all))
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
            if x.is_nested:  # its shape cannot be had
                raise UserError(NESTED)
            if use in self.uses:
                seen[-1][use.name, sum(name == use.name for name, _ in seen[-1])] = x.shape
            return output

        for m in (2, 3):
            seen.append({})
            with recording(self.module, self.by_module, note), torch.no_grad():
                self.forward(x[torch.zeros(m, dtype=torch.long)])
        two, three = seen
        if two.keys() != three.keys():
            raise UserError("model: runs other layers for another number of examples; each must pass through the same")
        self.same_for_all = {k: len(a) + (a[0] != 1) for k, a in two.items() if a == three[k] and a.numel()}

    def check(self, x: Inputs) -> Tensor:
        """The logits (S, m, ...) of a sample of a set; raises UserError for what a tape would not score right."""
        if self.is_stack:
            return self.logits(x)
        drawn, plain, backwards = self._random_states(), self.logits(x), torch.arange(len(x) - 1, -1, -1)
        halves = [self.logits(x[part]) for part in backwards.split((len(x) + 1) // 2)]
        alone = [self.logits(x[i : i + 1]) for i in range(min(len(x), _ALONE))]
        random = "model: its forward pass is random (dropout inside it?); call model.eval() first"
        if not all(map(torch.equal, drawn, self._random_states())):  # rarely used, or in train mode only: seldom seen
            training = any(module.training for module in self.module.modules())
            if training or not all(close(self.logits(x), plain) for _ in range(_AGAIN)):
                raise UserError(random)
        alike = len({logits.shape[2:] for logits in (plain, *halves, *alone)}) == 1
        expected = [plain.flip(1), plain[:, : len(alone)]]
        if not (alike and close(torch.cat([*halves, *alone], 1), torch.cat(expected, 1))):
            raise UserError(_MIXES if close(self.logits(x), plain) else random)
        leaves = [v.detach().requires_grad_() for v in tensors(x) if v.is_floating_point()]
        copies = iter(leaves)
        with torch.enable_grad():  # copies, as a leaf may not be written into
            tape = self._taped(over(x, lambda v: next(copies).clone() if v.is_floating_point() else v))
        if not bool(torch.isfinite(plain).all()):
            return plain  # named, with how many more there are, when the whole set has been read
        if not close(tape.logits, plain):
            raise UserError("model: its layers compute something else under a tape; does one of them act by its name?")
        cotangent = torch.randn(plain.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(plain)
        of_all = self._compare(tape, cotangent, leaves)
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
            both = zip([*at_leaves, *at_layers], of_all, strict=True)
            pairs = [(g[inside], whole[inside]) for g, whole in both if g is not None]
            if not all(torch.equal(*pair) or close(*pair) for pair in pairs):
                raise UserError("model: its backward pass mixes the examples of a batch (by a hook, or a Function?)")
        return plain

    def _random_states(self) -> list[Tensor]:
        """Of torch's own generators: a forward pass that draws from one moves it."""
        on_device = [torch.cuda.get_rng_state(self.like.device)] if self.like.is_cuda else []
        return [torch.get_rng_state(), *on_device]

    def _compare(self, tape: "ModuleTape", cotangent: Tensor, leaves: Sequence[Tensor]) -> list[Tensor | None]:
        """Each site's gradient by its factors with autograd's; the gradients at the leaves and at every record."""
        with differentiable(self.module, self.parameters):
            gradients, at_layers = tape.gradients(cotangent, [*self.parameters, *leaves])
        gradients, at_leaves = gradients[: len(self.parameters)], gradients[len(self.parameters) :]
        eps = _ROUNDING * torch.finfo(cotangent.dtype).eps
        wrong = []
        for site, f, wanted in zip(self.sites, tape.of_sites(at_layers), self.arranged(gradients), strict=True):
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
        return [*at_leaves, *at_layers]

    def values(self) -> list[Tensor]:
        """The parameters as one direction: every site's (S * G, 1, out, in), in the order of a tape's factors."""
        if self.is_stack:
            named = self._stack.parameters
            weights = {name: named[f"{name}.weight"].flatten(2) for name in self.names}
            return [layers.with_bias(w, named.get(f"{name}.bias"))[:, None] for name, w in weights.items()]
        return [site.arrange().detach()[:, None] for site in self.sites]

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


def copied(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in another dtype, of a result that the model keeps as well; raises UserError for what has none."""
    of = {True: dtype.to_complex(), False: dtype}  # ``to(dtype)`` drops the imaginary part of a buffer
    kept = [v for module in model.modules() for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf]
    try:
        other = copy.deepcopy(model, {id(v): v.detach() for v in kept})
    except (RuntimeError, TypeError) as error:
        raise UserError(f"model: cannot be copied to {str(dtype)[6:]}: {line(error)}") from error
    return other._apply(lambda v: v.to(of[c]) if (c := v.is_complex()) or v.is_floating_point() else v)


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
