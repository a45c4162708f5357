"""The works' models in PyTorch, as people write them there, to start from Keras's weights.

Modules have the names of Keras's layers, by which `load` finds the weights. Where Keras pads a
convolution of stride 2 by one more pixel at the end ("same"), PyTorch pads both sides alike. With
images and kernels flipped both compute the same, so the residual networks take flipped images;
what has stride 2 and no window then takes the odd pixels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = dict[str, np.ndarray]


class Cnn(nn.Module):
    """Conv 3x3 relu, flatten, dense."""

    def __init__(
        self, shape: tuple[int, ...], classes: int, channels_last: bool, filters: int = 32
    ):
        super().__init__()
        height, width, channels = shape
        self.conv = nn.Conv2d(channels, filters, 3)
        self.sides = (height - 2, width - 2, filters)
        self.head = nn.Linear(int(np.prod(self.sides)), classes)
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        if self.channels_last:  # so lies as it is read
            x = x.permute(0, 2, 3, 1)
        return self.head(x.flatten(1))

    def arranged(self, weights: Weights) -> Weights:
        """The dense kernel's rows in the order of what is flattened."""
        if self.channels_last:
            return weights
        kernel = weights["head/kernel"]
        rows = kernel.reshape(*self.sides, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        return {**weights, "head/kernel": rows}


class Mlp(nn.Module):
    """Dense layers with relu."""

    def __init__(self, shape: tuple[int, ...], classes: int, hidden: list[int]):
        super().__init__()
        widths = [int(np.prod(shape)), *hidden]
        for index, (before, after) in enumerate(zip(widths, hidden, strict=False), 1):
            self.add_module(f"dense_{index}", nn.Linear(before, after))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        *layers, head = self.children()
        for layer in layers:
            x = F.relu(layer(x))
        return head(x)


class ConvNorm(nn.Module):
    """A convolution without bias and its BatchNormalization."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(after, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def odd(x: Tensor) -> Tensor:
    """Every second pixel."""
    return x[:, :, 1::2, 1::2]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; where the width grows, zero channels are added to what came in."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.add_module("1", ConvNorm(before, after, 3, stride))
        self.add_module("2", ConvNorm(after, after, 3))
        self.stride = stride
        self.extra = after - before

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.children()
        y = second(F.relu(first(x), inplace=True))
        if self.stride == 2:
            half = self.extra // 2
            x = F.pad(odd(x), (0, 0, 0, 0, half, self.extra - half))
        return F.relu(y + x, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1; the first of a stage projects what came in."""

    def __init__(self, before: int, width: int, stride: int, projects: bool):
        super().__init__()
        self.add_module("1", ConvNorm(before, width, 1))
        self.add_module("2", ConvNorm(width, width, 3, stride))
        self.add_module("3", ConvNorm(width, 4 * width, 1))
        self.shortcut = ConvNorm(before, 4 * width, 1) if projects else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = list(self.children())[:3]
        y = third(F.relu(second(F.relu(first(x), inplace=True)), inplace=True))
        if self.shortcut is not None:
            x = self.shortcut(odd(x) if self.stride == 2 else x)
        return F.relu(y + x, inplace=True)


class ResNet(nn.Module):
    """The CIFAR family, or ResNet-50."""

    def __init__(self, shape: tuple[int, ...], classes: int, depth: int):
        super().__init__()
        large = depth == 50
        before = 64 if large else 16
        self.stem = ConvNorm(shape[2], before, *((7, 2) if large else (3, 1)))
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        stages = [(64, 3), (128, 4), (256, 6), (512, 3)]
        if not large:
            stages = [(width, (depth - 2) // 6) for width in (16, 32, 64)]
        blocks = nn.ModuleDict()
        for stage, (width, count) in enumerate(stages, 1):
            for number in range(1, count + 1):
                stride = 2 if stage > 1 and number == 1 else 1
                name = f"stage{stage}_block{number}"
                if large:
                    blocks[name] = Bottleneck(before, width, stride, number == 1)
                    before = 4 * width
                else:
                    blocks[name] = BasicBlock(before, width, stride)
                    before = width
        self.blocks = blocks
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.stem(x), inplace=True))
        for block in self.blocks.values():
            x = block(x)
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """Attention and a feed-forward pair, with the norms ahead."""

    def __init__(self, width: int, heads: int, causal: bool, epsilon: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, epsilon)
        self.attention_qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width, epsilon)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)
        self.heads = heads
        self.causal = causal
        self.gelu = "tanh" if causal else "none"

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.attention_qkv(self.attention_norm(x))
        q, k, v = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        y = F.gelu(self.feed_in(self.feed_norm(x)), approximate=self.gelu)
        return x + self.feed_out(y)


class Gpt(nn.Module):
    """A decoder-only transformer whose embedding is the output's kernel, too."""

    def __init__(self, shape: tuple[int, ...], classes: int, depth: int, heads: int, width: int):
        super().__init__()
        self.token_embedding = nn.Embedding(classes, width)
        self.position_embedding = nn.Embedding(shape[0], width)
        blocks = {f"block{n}": Block(width, heads, True, 1e-5) for n in range(1, depth + 1)}
        self.blocks = nn.ModuleDict(blocks)
        self.norm = nn.LayerNorm(width, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.token_embedding(x) + self.position_embedding.weight
        for block in self.blocks.values():
            x = block(x)
        return F.linear(self.norm(x), self.token_embedding.weight)


class Vit(nn.Module):
    """Patches as words, and a word more whose last state is classified."""

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        patch: int,
        depth: int,
        heads: int,
        width: int,
    ):
        super().__init__()
        words = (shape[0] // patch) * (shape[1] // patch) + 1
        self.patch_embedding = nn.Conv2d(shape[2], width, patch, patch)
        self.class_embedding = nn.Embedding(1, width)
        self.position_embedding = nn.Embedding(words, width)
        blocks = {f"block{n}": Block(width, heads, False, 1e-6) for n in range(1, depth + 1)}
        self.blocks = nn.ModuleDict(blocks)
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embedding(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.weight.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([first, x], 1) + self.position_embedding.weight
        for block in self.blocks.values():
            x = block(x)
        return self.head(self.norm(x)[:, 0])


FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "cnn": Cnn,
    "mlp": Mlp,
    "resnet": ResNet,
    "gpt": Gpt,
    "vit": Vit,
}


def load(model: nn.Module, weights: Weights) -> None:
    """Start `model` from Keras's weights, `layer/variable` -> array.

    Raises:
        KeyError: a weight is missing.
        ValueError: one was not used, or has another shape.
    """
    if isinstance(model, Cnn):
        weights = model.arranged(weights)
    flipped = isinstance(model, ResNet)
    used: set[str] = set()

    def take(key: str, into: Tensor, arrange: Callable[[np.ndarray], np.ndarray]) -> None:
        used.add(key)
        value = torch.from_numpy(np.ascontiguousarray(arrange(weights[key])))
        if value.shape != into.shape:
            raise ValueError(f"{key} has the shape {tuple(value.shape)}, not {tuple(into.shape)}")
        into.data.copy_(value)

    for path, module in model.named_modules():
        name = path.removeprefix("blocks.").replace(".", "_")
        for variable, into, arrange in _variables(module, flipped):
            take(f"{name}/{variable}", into, arrange)
    if left := weights.keys() - used:
        raise ValueError(f"weights that no module takes: {', '.join(sorted(left))}")


def _variables(module: nn.Module, flipped: bool) -> list[tuple[str, Any, Callable]]:
    """Keras's name of each of a module's own variables, the variable, and how to lay it out."""

    def same(value: np.ndarray) -> np.ndarray:
        return value

    def kernel(value: np.ndarray) -> np.ndarray:
        return (value[::-1, ::-1] if flipped else value).transpose(3, 2, 0, 1)

    found: list[tuple[str, Any, Callable]] = []
    if isinstance(module, nn.Linear):
        found.append(("kernel", module.weight, np.transpose))
    elif isinstance(module, nn.Conv2d):
        found.append(("kernel", module.weight, kernel))
    elif isinstance(module, nn.Embedding):
        found.append(("embeddings", module.weight, same))
    elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
        found += [("gamma", module.weight, same), ("beta", module.bias, same)]
    if isinstance(module, nn.BatchNorm2d):
        found.append(("moving_mean", module.running_mean, same))
        found.append(("moving_variance", module.running_var, same))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        found.append(("bias", module.bias, same))
    return found


def inputs(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Keras's inputs as `model` takes them: channels first, and flipped for a residual network."""
    if x.ndim != 4:
        return x
    if isinstance(model, ResNet):
        x = x[:, ::-1, ::-1]
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
