"""Random models, with and without a fault that a tape must refuse, and what every estimator says of them.

Run as a script it draws 300 and counts: ``python tests/influence/influence_random_models.py 300``.
"""

import collections
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from datalab.errors import UserError
from datalab.influence import (
    CG,
    EKFAC,
    KFAC,
    TRAK,
    Arnoldi,
    DataInf,
    ExactGGN,
    ExactHessian,
    GradCos,
    GradDot,
    LastLayerGGN,
    TracIn,
)

N, TESTS, CLASSES, WIDTH, POSITIONS, WORDS = 17, 4, 3, 4, 3, 6
DAMPING = 0.3


class Random(nn.Module):
    """An embedding or a projection to (m, t, d), some random steps, a mean over positions and a head."""

    def __init__(self, g: torch.Generator, faulty: bool):
        super().__init__()
        self.g, self.layers, self.steps = g, nn.ModuleList(), []
        self.tokens = self.chance(0.5)
        self.first = nn.Embedding(WORDS, WIDTH, padding_idx=0 if self.chance(0.3) else None) if self.tokens else (
            nn.Linear(WIDTH, WIDTH))  # fmt: skip
        self.flat = self.chance(0.3)
        for _ in range(self.pick(1, 2, 3)):
            self.steps.append(self.step())
        self.head = nn.Linear(WIDTH, CLASSES, bias=self.chance(0.8))
        self.fault = self.pick(*FAULTS) if faulty else None
        self.at = self.pick(*range(len(self.steps)))

    def pick(self, *options):
        return options[int(torch.randint(len(options), (), generator=self.g))]

    def chance(self, p: float) -> bool:
        return float(torch.rand((), generator=self.g)) < p

    def layer(self, layer: nn.Module) -> nn.Module:
        self.layers.append(layer)
        return layer

    def step(self) -> Callable[[Tensor], Tensor]:
        square = (WIDTH, WIDTH)
        linear = [a for a in self.layers if isinstance(a, nn.Linear) and tuple(a.weight.shape) == square]
        act = self.pick(torch.tanh, functional.gelu, functional.softplus)
        kind = self.pick("linear", "linear", "norm", "conv", "attention", "again", "tied", "positions", "transposed")
        if kind == "norm":
            norm = self.layer(self.pick(nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH), nn.GroupNorm(2, WIDTH),
                                        nn.BatchNorm1d(WIDTH), nn.InstanceNorm1d(WIDTH, affine=True)))  # fmt: skip
            second = isinstance(norm, nn.GroupNorm | nn.BatchNorm1d | nn.InstanceNorm1d)
            step = (lambda h: norm(h.mT).mT) if second else norm
        elif kind == "conv":
            groups = self.pick(1, 2)
            conv = self.layer(nn.Conv1d(WIDTH, WIDTH, self.pick(1, 3), padding="same", groups=groups))
            step = lambda h: conv(h.mT).mT  # noqa: E731
        elif kind == "attention":
            attend = self.layer(nn.MultiheadAttention(WIDTH, 2, batch_first=True, bias=self.chance(0.7)))
            step = lambda h: attend(h, h, h, need_weights=False)[0]  # noqa: E731
        elif kind == "again" and linear:
            again = self.pick(*linear)
            step = lambda h: again(act(again(h)))  # noqa: E731
        elif kind == "tied" and linear:
            other = self.layer(nn.Linear(WIDTH, WIDTH, bias=self.chance(0.7)))
            other.weight = self.pick(*linear).weight
            step = lambda h: act(other(h))  # noqa: E731
        elif kind == "positions":
            place, one = self.layer(nn.Embedding(POSITIONS, WIDTH)), self.chance(0.5)
            indices = torch.arange(POSITIONS)
            step = lambda h: act(h) + place(indices[None] if one else indices)  # noqa: E731
        elif kind == "transposed" and self.tokens and self.first.padding_idx is None:
            out = self.layer(nn.Linear(WIDTH, WORDS, bias=self.chance(0.5)))
            out.weight, back = self.first.weight, self.layer(nn.Linear(WORDS, WIDTH))
            step = lambda h: back(act(out(h)))  # noqa: E731
        else:
            layer = self.layer(nn.Linear(WIDTH, WIDTH, bias=self.chance(0.8)))
            step = lambda h: act(layer(h))  # noqa: E731
        return (lambda h: h + step(h)) if self.chance(0.5) else step

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x) if self.tokens else self.first(x.view(-1, POSITIONS, WIDTH))
        for i, step in enumerate(self.steps):
            h = FAULTS[self.fault](self, step, h, x) if self.fault and i == self.at else step(h)
        return self.head(h[:, 0] if self.flat else h.mean(1))


def _swapped(h: Tensor) -> Tensor:
    places = torch.arange(len(h))
    i, j = h[:, 0, 0].detach().topk(2).indices.tolist() if len(h) > 1 else (0, 0)
    places[[i, j]] = places[[j, i]]
    return places


def _sorted(m: Random, step: Callable, h: Tensor, _: Tensor) -> Tensor:
    order = h.detach()[:, 0, 0].argsort()
    return step(h[order])[order.argsort()]


def _gated(m: Random, step: Callable, h: Tensor, _: Tensor) -> Tensor:
    return step(h) + 1e-3 * (h[:, :1, :1] > 0.8) * functional.linear(step(h), m.head.weight).sum(-1, keepdim=True)


def _mixed_where(m: Random, step: Callable, h: Tensor, _: Tensor) -> Tensor:
    return step(h + 0.01 * (h[:, :1, :1] > 0.8) * h.mean(0))


def _not_its_name(m: Random, step: Callable, h: Tensor, _: Tensor) -> Tensor:
    return step(h) * (1 + 1e-3 * m.first.weight.sum())


# Each takes the model, a step, its input and the model's.
FAULTS: dict[str, Callable] = {
    "flipped": lambda m, step, h, x: step(h.flip(0)).flip(0),
    "rolled": lambda m, step, h, x: step(h.roll(1, 0)).roll(-1, 0),
    "sorted": _sorted,
    "two exchanged": lambda m, step, h, x: step(h[_swapped(h)])[_swapped(h)],
    "gated": _gated,
    "mixed": lambda m, step, h, x: step(h + 1e-4 * h.mean(0)),
    "mixed where": _mixed_where,
    "by number": lambda m, step, h, x: step(h) / len(h),
    "outside": _not_its_name,
    "positions first": lambda m, step, h, x: step(h.transpose(0, 1)).transpose(0, 1),
    "detached": lambda m, step, h, x: step(h).detach(),
}


def draw(seed: int) -> tuple[Random, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A model in float64, a training set and a test set; two in five have a fault."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    model = Random(g, faulty=seed % 5 < 2).double().eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g, dtype=torch.float64) / 2
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5, generator=g)
            module.running_var.uniform_(0.5, 2, generator=g)
    if model.chance(0.3):  # some frozen, not the head
        for parameter in list(model.parameters())[:-2]:
            parameter.requires_grad_(model.chance(0.6))

    def rows(n: int) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(0, WORDS, (n, POSITIONS), generator=g)
        numbers = torch.randn(n, POSITIONS * WIDTH, generator=g).double()
        return tokens if model.tokens else numbers, torch.randint(0, CLASSES, (n,), generator=g)

    return model, rows(N), rows(TESTS)


class Truth:
    """Derivatives of each example alone in its batch, by autograd."""

    def __init__(self, model: Random, train: tuple[Tensor, Tensor], tests: tuple[Tensor, Tensor]):
        self.model, self.train = model, train
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.own, self.of_tests = self.gradients(*train), self.gradients(*tests)
        self.p = torch.cat([torch.softmax(model(row), 1) for row in train[0].split(1)]).detach()
        per_class = [self.gradients(train[0], torch.full((N,), c)) for c in range(CLASSES)]
        self.fisher = [self.p[:, c, None].sqrt() * g for c, g in enumerate(per_class)]
        self.ggn = sum(g.T @ g for g in self.fisher) / N

    def gradients(self, x: Tensor, y: Tensor, of=functional.cross_entropy) -> Tensor:
        found = []
        for i in range(len(x)):
            loss = of(self.model(x[i : i + 1]), y[i : i + 1])
            g = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            parts = zip(g, self.parameters, strict=True)
            found.append(torch.cat([(torch.zeros_like(p) if v is None else v).flatten() for v, p in parts]))
        return torch.stack(found)

    def hessian(self) -> Tensor:
        total = 0
        for row, label in zip(self.train[0].split(1), self.train[1].split(1), strict=True):
            loss = functional.cross_entropy(self.model(row), label)
            g = torch.autograd.grad(loss, self.parameters, create_graph=True, allow_unused=True)
            flat = torch.cat([
                (torch.zeros_like(p) if v is None else v).flatten() for v, p in zip(g, self.parameters, strict=True)
            ])  # fmt: skip
            rows = []
            for entry in flat:
                second = (
                    torch.autograd.grad(entry, self.parameters, retain_graph=True, allow_unused=True)
                    if entry.requires_grad
                    else [None] * len(self.parameters)
                )
                parts = zip(second, self.parameters, strict=True)
                rows.append(torch.cat([(torch.zeros_like(p) if v is None else v).flatten() for v, p in parts]))
            total = total + torch.stack(rows)
        return total.detach() / N

    def by_site(self, estimator, flat: Tensor) -> list[Tensor]:
        """Rows (n, P) as every site's (n, B, out, in)."""
        parts = zip(self.parameters, flat.split([p.numel() for p in self.parameters], 1), strict=True)
        named = {id(p): part.unflatten(1, p.shape) for p, part in parts}
        found = []
        for site in estimator._network.sites:
            values = zip(*(named[id(p)] for p in site.parameters), strict=True)
            found.append(torch.stack([site.arrange(*of_example) for of_example in values]))
        return found

    def scores(self, name: str, estimator) -> tuple[Tensor, Tensor]:
        """Self-influence (n,) and pairwise (tests, n), from the definition."""
        own, tests = self.own, self.of_tests
        if name == "TRAK":
            projection = estimator._members[0].projection()
            order = torch.cat([s.flatten(1) for s in self.by_site(estimator._members[0], own)], 1)
            of_tests = torch.cat([s.flatten(1) for s in self.by_site(estimator._members[0], tests)], 1)
            own, tests = order @ projection.T, of_tests @ projection.T
            odds = self.by_site(estimator._members[0], self.gradients(*self.train, of=_log_odds))
            phi = torch.cat([s.flatten(1) for s in odds], 1) @ projection.T
            matrix = phi.T @ phi / N
        elif name in ("KFAC", "EKFAC", "DataInf"):
            return self._by_blocks(name, estimator)
        elif name in ("GradDot", "TracIn", "GradCos"):
            if name == "GradCos":
                norms = own.norm(dim=1)
                pairs = -(tests @ own.T) / (tests.norm(dim=1)[:, None] * norms).clamp(min=1e-30)
                return (norms > 0).double(), pairs
            return own.square().sum(1), -tests @ own.T
        elif name == "LastLayerGGN":
            size = sum(p.numel() for p in self.model.head.parameters())
            own, tests, matrix = own[:, -size:], tests[:, -size:], self.ggn[-size:, -size:]
        else:
            with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention cannot be differentiated twice
                matrix = self.hessian() if name == "ExactHessian" else self.ggn
        solved = torch.linalg.solve(matrix + estimator_damping(name) * torch.eye(len(matrix)).double(), own.T)
        return (own.T * solved).sum(0), -tests @ solved

    def _by_blocks(self, name: str, estimator) -> tuple[Tensor, Tensor]:
        own, pairs = 0, 0
        sites = [self.by_site(estimator, flat) for flat in (self.own, self.of_tests, *self.fisher)]
        for k, (g, v, *classes) in enumerate(zip(*sites, strict=True)):
            if name == "DataInf":
                g, v = g.flatten(1), v.flatten(1)
                inverses = [torch.linalg.inv(torch.outer(r, r) + DAMPING * torch.eye(len(r)).double()) for r in g]
                matrix = torch.stack(inverses).mean(0)
                own, pairs = own + ((g @ matrix) * g).sum(1), pairs - v @ matrix @ g.T
                continue
            q_a, q_g = estimator._bases[k]
            turn = lambda w, q_a=q_a, q_g=q_g: q_g.mT @ w if q_a is None else q_g.mT @ w @ q_a  # noqa: E731
            if name == "EKFAC":
                eigenvalues = sum(turn(c).square().mean(0) for c in classes)
            else:  # K-FAC's own are tested against their definition elsewhere
                eigenvalues = estimator.eigenvalues_[k]
            g, v = turn(g), turn(v)
            own = own + (g.square() / (eigenvalues + DAMPING)).flatten(1).sum(1)
            pairs = pairs - (v / (eigenvalues + DAMPING)).flatten(1) @ g.flatten(1).T
        return own, pairs


def _log_odds(logits: Tensor, y: Tensor) -> Tensor:
    others = logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)
    return (logits.gather(1, y[:, None])[:, 0] - others).sum()


def estimator_damping(name: str) -> float:
    return 20.0 if name == "ExactHessian" else DAMPING


ESTIMATORS = {
    kind.__name__: lambda m, kind=kind: kind(m, DAMPING, batch_size=5) for kind in (ExactGGN, KFAC, EKFAC, DataInf)
} | {
    "ExactHessian": lambda m: ExactHessian(m, estimator_damping("ExactHessian"), batch_size=9),
    "CG": lambda m: CG(m, DAMPING, tolerance=1e-10, batch_size=9),
    "Arnoldi": lambda m: Arnoldi(m, DAMPING, rank=10_000, batch_size=9),
    "GradDot": lambda m: GradDot(m, batch_size=5),
    "GradCos": lambda m: GradCos(m, batch_size=5),
    "TracIn": lambda m: TracIn([m], [1.0], batch_size=5),
    "TRAK": lambda m: TRAK([m], DAMPING, dimensions=8, batch_size=5),
    "LastLayerGGN": lambda m: LastLayerGGN(m, DAMPING, batch_size=5),
}  # fmt: skip


def verdicts(seed: int) -> tuple[str | None, dict[str, str]]:
    """The model's fault, and of each estimator "right", "WRONG" or its refusal."""
    model, train, tests = draw(seed)
    truth, found = None, {}
    for name, build in ESTIMATORS.items():
        if name == "ExactHessian" and seed % 4:  # its truth is half the time of all
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                estimator = build(model).fit(*train)
                own, pairs = estimator.self_influence(*train), estimator.pairwise(*train, *tests)
        except UserError as error:
            found[name] = str(error)
            continue
        truth = truth or Truth(model, train, tests)
        exact = truth.scores(name, estimator)
        same = all(
            torch.allclose(ours, theirs, rtol=1e-6, atol=1e-7 * float(theirs.abs().max()) + 1e-12)
            for ours, theirs in zip((own, pairs), exact, strict=True)
        )
        found[name] = "right" if same else "WRONG"
    return model.fault, found


def main(count: int) -> None:
    """Print how many are right, refused and wrong, by fault."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for seed in range(count):
        fault, found = verdicts(seed)
        for name, verdict in found.items():
            counts[fault or "none"][verdict if verdict in ("right", "WRONG") else "refused"] += 1
            if verdict == "WRONG" or (fault is None and verdict != "right"):
                print(f"model {seed} ({fault}), {name}: {verdict}")
    for fault, of_fault in sorted(counts.items()):
        print(f"{fault:16} {dict(of_fault)}")
    print("all", dict(sum(counts.values(), collections.Counter())))


if __name__ == "__main__":
    main(int(sys.argv[1]))
