"""Models as people build them, whole and without ``leave_out``, against each example's own gradient by autograd."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from datalab.influence import EKFAC, KFAC, DataInf, ExactGGN, GradDot, LastLayerGGN

pytestmark = [
    pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CLASSES, DAMPING = 3, 0.05


class BasicBlock(nn.Module):
    """Two convolutions with batch norms beside a shortcut (He et al. 2016), one ReLU used twice, as torchvision's."""

    def __init__(self, n_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 3, stride, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        shortcut = nn.Sequential(nn.Conv2d(n_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.downsample = shortcut if stride > 1 or n_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet18(nn.Module):
    def __init__(self, width: int = 64, classes: int = CLASSES):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        widths = [width, *(width * 2**i for i in range(4))]
        for i in range(1, 5):
            blocks = [BasicBlock(widths[i - 1], widths[i], 1 + (i > 1)), BasicBlock(widths[i], widths[i], 1)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(width: int = 2) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = ResNet18(width)
    for module in model.modules():  # as after training
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model, torch.randn(12, 3, 32, 32, dtype=torch.float64)


def tokens(vocabulary: int, pad: int) -> dict[str, Tensor]:
    """Twelve texts of 3 to 8 tokens, padded on the right."""
    ids = torch.randint(1, vocabulary - 1, (12, 8))
    mask = (torch.arange(8) < torch.randint(3, 9, (12, 1))).long()
    return {"input_ids": torch.where(mask == 1, ids, pad), "attention_mask": mask}


def bert(width: int = 8) -> tuple[nn.Module, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=2 * width,
        max_position_embeddings=10, num_labels=CLASSES, initializer_range=0.4,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config), tokens(20, 0)


def gpt2_config(width: int = 8):
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2Config(
        vocab_size=20, n_positions=10, n_embd=width, n_layer=2, n_head=2, bos_token_id=19, eos_token_id=19,
        pad_token_id=0, num_labels=CLASSES, initializer_range=0.4,
    )  # fmt: skip


def gpt2(width: int = 8) -> tuple[nn.Module, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.GPT2ForSequenceClassification(gpt2_config(width)), tokens(20, 0)


class NextToken(nn.Module):
    """A language model's logits of the token after the last, over the first three tokens of the vocabulary."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        last = inputs["attention_mask"].sum(1) - 1
        return self.model(**inputs).logits[torch.arange(len(last)), last, :CLASSES]


def gpt2_language_model(width: int = 8) -> tuple[nn.Module, dict[str, Tensor]]:
    """The head is the embedding's transpose: one parameter, two uses."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(gpt2_config(width))
    assert model.lm_head.weight is model.transformer.wte.weight
    return NextToken(model), tokens(20, 0)


def bert_language_model(width: int = 8) -> tuple[nn.Module, dict[str, Tensor]]:
    """As ``gpt2_language_model``, with a bias of its own beside the tied weight."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(bert(width)[0].config)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    return NextToken(model), tokens(20, 0)


def lora(width: int = 8) -> tuple[nn.Module, dict[str, Tensor]]:
    """Two frozen matrices with trainable ones of rank 2 beside each, and a trainable head."""
    peft = pytest.importorskip("peft")
    model, x = bert(width)
    config = peft.LoraConfig(
        r=2, lora_alpha=4, target_modules=["query", "value"], modules_to_save=["classifier"], init_lora_weights=False
    )
    return peft.get_peft_model(model, config), x


BUILDS = {
    "ResNet-18": resnet18, "BERT": bert, "GPT-2": gpt2, "GPT-2 with a tied head": gpt2_language_model,
    "BERT with a tied head": bert_language_model, "LoRA": lora,
}  # fmt: skip


def problem(name: str, **options):
    model, x = BUILDS[name](**options)
    model = model.double().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases too
    return model, x, torch.arange(12) % CLASSES


def logits(model: nn.Module, x: Tensor | dict[str, Tensor]) -> Tensor:
    found = model(**x) if isinstance(x, dict) else model(x)
    return found if isinstance(found, Tensor) else found.logits


def rows(x: Tensor | dict[str, Tensor], at: slice) -> Tensor | dict[str, Tensor]:
    return {key: value[at] for key, value in x.items()} if isinstance(x, dict) else x[at]


def gradients(model: nn.Module, x, of_logits) -> Tensor:
    """Of ``of_logits`` of each example's logits, the gradient over all trainable parameters, (n, P)."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    found = []
    for i in range(12):
        value = of_logits(logits(model, rows(x, slice(i, i + 1)))[0], i)
        g = torch.autograd.grad(value, trainable, allow_unused=True)
        parts = [torch.zeros_like(p) if v is None else v for v, p in zip(g, trainable, strict=True)]
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


def loss_gradients(model: nn.Module, x, y: Tensor) -> Tensor:
    return gradients(model, x, lambda f, i: functional.cross_entropy(f, y[i]))


def gauss_newton(model: nn.Module, x) -> Tensor:
    log_p = torch.log_softmax(logits(model, x).detach(), 1)
    per_class = [gradients(model, x, lambda f, i, c=c: torch.log_softmax(f, 0)[c]) for c in range(CLASSES)]
    return sum((g * log_p[:, c, None].exp()).T @ g for c, g in enumerate(per_class)) / 12


def close(ours: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-9 * float(exact.abs().max()))


@pytest.mark.parametrize("name", BUILDS)
def test_gradients_of_whole_models_are_autograds(name):
    """Before: 40 rounds of ``leave_out`` for a ResNet-18, tied heads refused, LoRA's frozen base scored."""
    model, x, y = problem(name)
    g = loss_gradients(model, x, y)
    estimator = GradDot(model, batch_size=5).fit(x, y)
    assert estimator._network.n_parameters == g.shape[1]
    close(estimator.self_influence(x, y), g.square().sum(1))
    close(estimator.pairwise(x, y, rows(x, slice(0, 4)), y[:4]), -g[:4] @ g.T)


@pytest.mark.parametrize("name", ["BERT", "GPT-2", "GPT-2 with a tied head", "LoRA"])
def test_exact_curvature_of_whole_models_is_the_brute_force_one(name):
    model, x, y = problem(name, width=4)
    g, h = loss_gradients(model, x, y), gauss_newton(model, x)
    solved = torch.linalg.solve(h + DAMPING * torch.eye(len(h), dtype=h.dtype), g.T)
    estimator = ExactGGN(model, DAMPING, batch_size=5).fit(x, y)
    close(estimator.self_influence(x, y), (g.T * solved).sum(0))
    close(estimator.influence_on(x, y, x, y), -g.mean(0) @ solved)


@pytest.mark.parametrize("name", BUILDS)
def test_ekfac_of_whole_models_is_the_fishers_diagonal_in_its_bases(name):
    model, x, y = problem(name)
    estimator = EKFAC(model, DAMPING, batch_size=5).fit(x, y)

    def rotated(flat: Tensor) -> list[Tensor]:
        """Every site's (n, B, out, in), in its basis."""
        trainable = [p for p in model.parameters() if p.requires_grad]
        parts = zip(trainable, flat.split([p.numel() for p in trainable], 1), strict=True)
        named = {id(p): part.unflatten(1, p.shape) for p, part in parts}
        found = []
        for site, (q_a, q_g) in zip(estimator._network.sites, estimator._bases, strict=True):
            values = [named[id(p)] for p in site.parameters]
            g = torch.stack([site.arrange(*of_example) for of_example in zip(*values, strict=True)])
            found.append(q_g.mT @ g if q_a is None else q_g.mT @ g @ q_a)
        return found

    p = torch.softmax(logits(model, x).detach(), 1)
    per_class = [gradients(model, x, lambda f, i, c=c: torch.log_softmax(f, 0)[c]) for c in range(CLASSES)]
    of_fisher = [rotated(p[:, c, None].sqrt() * g) for c, g in enumerate(per_class)]
    scores = 0
    for k, g in enumerate(rotated(loss_gradients(model, x, y))):
        eigenvalues = sum(of_class[k].square().mean(0) for of_class in of_fisher)
        close(estimator.eigenvalues_[k], eigenvalues)
        scores = scores + (g.square() / (eigenvalues + DAMPING)).flatten(1).sum(1)
    close(estimator.self_influence(x, y), scores)


@pytest.mark.parametrize("name", ["ResNet-18", "BERT", "LoRA"])
def test_the_last_layer_of_whole_models_is_found(name):
    model, x, y = problem(name)
    estimator = LastLayerGGN(model, 1e9).fit(x, y)  # of so large a damping only the gradients are left
    size = CLASSES * estimator._network.shapes[0][2]
    g = loss_gradients(model, x, y)[:, -size:]
    close(estimator.self_influence(x, y) * 1e9, g.square().sum(1))


@pytest.mark.parametrize("name", BUILDS)
def test_every_estimator_takes_whole_models(name):
    model, x, y = problem(name)
    for kind in (KFAC, DataInf):
        own = kind(model, DAMPING).fit(x, y)
        close(-own.pairwise(x, y, x, y).diagonal(), own.self_influence(x, y))
