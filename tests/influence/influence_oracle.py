"""What the influence code must equal: torch.func's per-example derivatives and explicit matrices, in float64.

Everything is in one *arrangement*: a parameter vector is the concatenation of every site's matrices (B, out, in), the
bias being the last column (a normalisation has a 1 x 2 matrix a channel, an attention layer four sites).
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, vmap
from torch.nn import functional

from datalab.errors import UserError

CLASSES = 4


def refusal(call: Callable[[], object]) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Tokens(nn.Module):
    """An embedding with padding, attention over the tokens, and a mean over the positions."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4, padding_idx=0)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.long())
        causal = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).triu(1)
        h = h + self.attend(h, h, h, attn_mask=causal, need_weights=False)[0]
        return self.head(self.norm(h).mean(1))


class Crossed(nn.Module):
    """Attention whose keys and values have widths of their own, without biases, positions first."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, bias=False, kdim=3, vdim=2)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x[:, :4].view(-1, 1, 4), x[:, :12].view(-1, 4, 3), x[:, 4:12].view(-1, 4, 2)
        q, k, v = (each.transpose(0, 1) for each in (q, k, v))
        return self.head(self.attend(q, k, v)[0][0])


MODELS = {
    "softmax regression": lambda: nn.Sequential(nn.Linear(12, CLASSES)),
    "an MLP": lambda: nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, CLASSES)),
    "an MLP without biases": lambda: nn.Sequential(
        nn.Linear(12, 5, bias=False), nn.ReLU(inplace=True), nn.Linear(5, CLASSES, bias=False)
    ),
    "a Linear layer on sequences": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 4)), nn.Linear(4, 3), nn.GELU(), nn.Flatten(), nn.Linear(9, CLASSES)
    ),
    "a CNN of odd shapes": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)),
        nn.Conv2d(1, 3, (2, 3), stride=(1, 2), padding=(1, 1), bias=False),
        nn.ReLU(),
        nn.Conv2d(3, 2, 2, dilation=(2, 1)),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    ),
    "grouped and depthwise convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2, 3)),
        nn.Conv2d(2, 4, (1, 2), groups=2),
        nn.Tanh(),
        nn.Conv2d(4, 4, 2, groups=4, padding="same", padding_mode="circular", bias=False),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    ),
    "convolutions on a line": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 6)),
        nn.Conv1d(2, 4, 3, stride=2, padding=2, groups=2),
        nn.SiLU(),
        nn.Conv1d(4, 3, 2, padding="same", padding_mode="reflect"),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    ),
    "normalisations": lambda: nn.Sequential(
        nn.Linear(12, 8),
        nn.LayerNorm(8),
        nn.Tanh(),
        nn.Unflatten(1, (4, 2)),
        nn.GroupNorm(2, 4),
        nn.RMSNorm(2),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    ),
    "tokens with attention": Tokens,
    "attention of unlike widths": Crossed,
    "a transformer's layer": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 4)),
        nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True, norm_first=True),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    ),
}


def problem(name: str = "an MLP", n: int = 23, seed: int = 0):
    """A model in float64 with random parameters, a training set and a target set."""
    g = torch.Generator().manual_seed(seed)
    model = MODELS[name]().double().eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g, dtype=torch.float64) / 2
    tokens = name.startswith("tokens")

    def draw(rows: int) -> tuple[Tensor, Tensor]:
        x = torch.randint(0, 7, (rows, 5), generator=g) if tokens else torch.randn(rows, 12, generator=g).double()
        return x, torch.randint(0, CLASSES, (rows,), generator=g)

    return model, draw(n), draw(7)


def _loss(model, x, label):
    return lambda p: functional.cross_entropy(functional_call(model, p, (x[None],)), label[None])


def sites(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """(name, module, part) of every site, parts being those of attention."""
    found, inner = [], set()
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            inner.add(f"{name}.out_proj")
            found += [(name, module, part) for part in ("q", "k", "v", "out")]
        elif name not in inner and list(module.parameters(recurse=False)):
            found.append((name, module, ""))
    return found


def arranged(model: nn.Module, named: dict[str, Tensor]) -> list[Tensor]:
    """Values (n, *shape) of every parameter as each site's (n, B, out, in)."""
    found = []
    for name, module, part in sites(model):
        at = f"{name}." if name else ""
        if part:
            e = module.embed_dim
            rows = {"q": slice(0, e), "k": slice(e, 2 * e), "v": slice(2 * e, None), "out": slice(None)}[part]
            if part == "out":
                weight, bias = named[f"{at}out_proj.weight"], named.get(f"{at}out_proj.bias")
            else:
                packed = named.get(f"{at}in_proj_weight")
                weight = packed[:, rows] if packed is not None else named[f"{at}{part}_proj_weight"]
                bias = named.get(f"{at}in_proj_bias")
                bias = None if bias is None else bias[:, rows]
            weight = weight[:, None]
        else:
            weight, bias = named[f"{at}weight"], named.get(f"{at}bias")
            if isinstance(module, nn.Embedding):
                weight = weight.mT[:, None]
            elif isinstance(module, nn.Linear):
                weight = weight[:, None]
            elif isinstance(module, nn.Conv1d | nn.Conv2d):
                last = weight.movedim(2, -1)  # a patch's channels
                weight = last.reshape(len(weight), module.groups, module.out_channels // module.groups, -1)
            else:
                weight = weight.reshape(len(weight), -1, 1, 1)
        if bias is not None:
            weight = torch.cat([weight, bias.reshape(*weight.shape[:3], 1)], 3)
        found.append(weight)
    return found


def flat(by_site: list[Tensor]) -> Tensor:
    return torch.cat([value.flatten(1) for value in by_site], 1)


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Each example's loss gradient, by site."""
    per_example = vmap(lambda p, one, label: grad(_loss(model, one, label))(p), (None, 0, 0), randomness="same")
    return [g.detach() for g in arranged(model, per_example(dict(model.named_parameters()), x, y))]


def fisher_gradients(model: nn.Module, x: Tensor) -> list[list[Tensor]]:
    """For each class the gradients, by site, whose squares add up to the Fisher."""
    p = torch.softmax(model(x), 1).detach().sqrt()
    per_class = [gradients(model, x, torch.full((len(x),), c)) for c in range(CLASSES)]
    return [[p[:, c, None, None, None] * g for g in each] for c, each in enumerate(per_class)]


def gauss_newton(model: nn.Module, x: Tensor) -> Tensor:
    """The mean over x of J' Hessian-of-the-loss J, as a full matrix."""
    of_logits = jacrev(lambda p, one: functional_call(model, p, (one[None],))[0])
    jacobians = vmap(of_logits, (None, 0))(dict(model.named_parameters()), x)
    by_class = [flat(arranged(model, {k: v[:, c] for k, v in jacobians.items()})) for c in range(CLASSES)]
    jacobian = torch.stack(by_class, 1)
    of_loss = vmap(hessian(lambda z: torch.logsumexp(z, 0)))(model(x).detach())
    return torch.einsum("ncp,ncd,ndq->pq", jacobian, of_loss, jacobian).detach() / len(x)


def full_hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of the mean loss: forward derivatives of the gradient, one by one (under vmap torch's are wrong for norms)."""
    parameters = {k: v.detach() for k, v in model.named_parameters()}
    of_mean = grad(lambda p: functional.cross_entropy(functional_call(model, p, (x,)), y))
    columns = []
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for name, value in parameters.items():
            for i in range(value.numel()):
                unit = {k: torch.zeros_like(v) for k, v in parameters.items()}
                unit[name].view(-1)[i] = 1
                _, column = torch.func.jvp(of_mean, (parameters,), (unit,))
                columns.append(flat(arranged(model, {k: v[None] for k, v in column.items()}))[0])
    order, start = {}, 0
    for name, value in parameters.items():
        order[name] = torch.arange(start, start + value.numel()).view(1, *value.shape)
        start += value.numel()
    return torch.stack(columns)[flat(arranged(model, order))[0]]


def moments(model: nn.Module, x: Tensor) -> list[tuple[Tensor, Tensor, int]]:
    """Each site's mean of sum_t a a' (B, in, in), mean Fisher's sum_t g g' (B, out, out), and t: from autograd's own
    hooks, with inputs as the layer's definition says.
    """
    seen: dict[str, list] = {}
    handles = []
    for name, module, part in sites(model):
        if part in ("", "q"):
            handles.append(
                module.register_forward_hook(
                    lambda m, args, out, name=name: seen.__setitem__(name, [m, args, out]), prepend=True
                )
            )
    p = torch.softmax(model(x), 1).detach().sqrt()
    for handle in handles:
        handle.remove()
    found = []
    for name, module, part in sites(model):
        if part:
            a, g = _attention_parts(model, seen[name], name, part, x, p)
        else:
            a, g = _inputs(module, seen[name][1][0]), _output_gradients(model, module, x, p)
        of_inputs = torch.einsum("bnti,bntj->bij", a, a) / len(x)
        of_gradients = torch.einsum("cbnto,cbntq->boq", g, g) / len(x)
        found.append((of_inputs.detach(), of_gradients.detach(), a.shape[2]))
    return found


def _with_one(a: Tensor, module: nn.Module) -> Tensor:
    return a if getattr(module, "bias", None) is None else torch.cat([a, torch.ones_like(a[..., :1])], -1)


def _inputs(module: nn.Module, x: Tensor) -> Tensor:
    """(B, n, t, in)."""
    if isinstance(module, nn.Embedding):
        return functional.one_hot(x.long().flatten(1), module.num_embeddings).double()[None]
    if isinstance(module, nn.Linear):
        return _with_one(x.reshape(1, len(x), -1, x.shape[-1]), module)
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        # a convolution with the identity as its kernel cuts out the patches
        per_group = module.in_channels // module.groups
        size = per_group * math.prod(module.kernel_size)
        identity = torch.eye(size, dtype=x.dtype).view(size, *module.kernel_size, per_group).movedim(-1, 1)
        clone = type(module)(
            module.in_channels, size * module.groups, module.kernel_size, module.stride, module.padding,
            module.dilation, module.groups, False, module.padding_mode,
        ).double()  # fmt: skip
        clone.weight.data = identity.repeat(module.groups, *[1] * (identity.dim() - 1))
        patches = clone(x).flatten(2).view(len(x), module.groups, size, -1)
        return _with_one(patches.permute(1, 0, 3, 2), module)
    plain = type(module)(
        *([module.num_groups, module.num_channels] if isinstance(module, nn.GroupNorm) else [module.normalized_shape])
    ).double()
    return _with_one(_per_channel(module, plain(x)), module)


def _per_channel(module: nn.Module, x: Tensor) -> Tensor:
    """(channels, n, t, 1)."""
    x = x.flatten(2).mT if isinstance(module, nn.GroupNorm) and x.dim() > 2 else x
    return x.reshape(len(x), -1, x.shape[-1]).permute(2, 0, 1)[..., None]


def _output_gradients(model: nn.Module, module: nn.Module, x: Tensor, root_p: Tensor) -> Tensor:
    """(C, B, n, t, out)."""
    kept = []
    handle = module.register_forward_hook(
        lambda _, __, out: kept.append(out.detach().requires_grad_()) or kept[0].clone()
    )
    log_p = torch.log_softmax(model(x), 1)
    handle.remove()
    found = []
    for c in range(CLASSES):
        (g,) = torch.autograd.grad((log_p[:, c] * root_p[:, c]).sum(), kept[0], retain_graph=True)
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            g = g.flatten(2).view(len(x), module.groups, -1, math.prod(g.shape[2:])).permute(1, 0, 3, 2)
        elif isinstance(module, nn.Linear | nn.Embedding):
            g = g.reshape(1, len(x), -1, g.shape[-1])
            if isinstance(module, nn.Embedding):
                g = g * (x.long().flatten(1) != module.padding_idx)[None, ..., None]
        else:
            g = _per_channel(module, g)
        found.append(g)
    return torch.stack(found)


def _attention_parts(model, seen, name, part, x, root_p):
    """Inputs and output gradients of one projection: the projections' biases, one for each position, are the probe."""
    module, args, _ = seen
    query, key, value = (a if module.batch_first else a.transpose(0, 1) for a in args[:3])
    given = {"q": query, "k": key, "v": value}
    e, heads = module.embed_dim, module.num_heads
    weights = module.in_proj_weight.chunk(3) if module._qkv_same_embed_dim else (
        module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)  # fmt: skip
    biases = [0, 0, 0] if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    outputs = {
        n: (given[n] @ w.T + b).detach().requires_grad_() for n, w, b in zip("qkv", weights, biases, strict=True)
    }

    def split(z):
        return z.view(len(z), -1, heads, e // heads).transpose(1, 2)

    scores = split(outputs["q"]) @ split(outputs["k"]).mT / math.sqrt(e // heads)
    if name == "attend" and isinstance(model, Tokens):
        t = scores.shape[-1]
        scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -math.inf)
    mixed = (torch.softmax(scores, -1) @ split(outputs["v"])).transpose(1, 2).flatten(2)
    out = module.out_proj(mixed)
    module.forward = lambda *_, **__: (out if module.batch_first else out.transpose(0, 1), None)
    log_p = torch.log_softmax(model(x), 1)
    del module.forward
    wanted = out if part == "out" else outputs[part]
    grads = [
        torch.autograd.grad((log_p[:, c] * root_p[:, c]).sum(), wanted, retain_graph=True)[0] for c in range(CLASSES)
    ]
    a = mixed if part == "out" else given[part]
    has_bias = (module.out_proj.bias if part == "out" else module.in_proj_bias) is not None
    a = torch.cat([a, torch.ones_like(a[..., :1])], -1) if has_bias else a
    return a[None], torch.stack(grads)[:, None]


def kronecker_inverse(model: nn.Module, x: Tensor, damping: float, kfac: bool) -> Tensor:
    """(EK-FAC's or K-FAC's H + d I)^-1 as an explicit matrix, from the definitions."""
    per_class = fisher_gradients(model, x)
    blocks = []
    for s, (of_inputs, of_gradients, t) in enumerate(moments(model, x)):
        a_values, q_a = torch.linalg.eigh(of_inputs)
        g_values, q_g = torch.linalg.eigh(of_gradients)
        if kfac:
            values = g_values[:, :, None] * a_values[:, None] / t
        else:
            rotated = (torch.einsum("boj,nboi,bik->nbjk", q_g, each[s], q_a) for each in per_class)
            values = sum((r**2).mean(0) for r in rotated)
        for b in range(len(q_g)):
            basis = torch.kron(q_g[b], q_a[b])
            blocks.append(basis @ torch.diag(1 / (values[b].flatten() + damping)) @ basis.T)
    return torch.block_diag(*blocks)


def datainf_inverse(model: nn.Module, x: Tensor, y: Tensor, damping: float) -> Tensor:
    """At each layer the mean of (g g' + d I)^-1."""
    blocks = []
    for g in gradients(model, x, y):
        g = g.flatten(1).detach()
        eye = torch.eye(g.shape[1], dtype=g.dtype)
        blocks.append(torch.stack([torch.linalg.inv(torch.outer(v, v) + damping * eye) for v in g]).mean(0))
    return torch.block_diag(*blocks)
