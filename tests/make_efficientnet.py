"""EfficientNets after EfficientNet-PyTorch's model.py: its names, order and arithmetic, to compare conversions with.

Blocks are counted through; the block that does not expand has no `_expand_conv`; strided convolutions pad as TensorFlow
does; batch normalisation adds 0.001 to variances. EfficientNet-Lite has ReLU6 for SiLU and no squeeze-and-excitation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

Stage = tuple[int, int, int, int, int]  # blocks, kernel, stride, expansion, width
B0: tuple[Stage, ...] = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip


class SameConv(nn.Conv2d):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pads = []
        for size, kernel, stride in zip(images.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            more = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [more // 2, more - more // 2]
        return F.conv2d(F.pad(images, pads), self.weight, self.bias, self.stride, groups=self.groups)


def norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    def __init__(self, width: int, stage: Stage, first: bool, lite: bool) -> None:
        super().__init__()
        _, kernel, stride, expansion, wide = stage
        middle = width * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv(width, middle, 1, bias=False), norm(middle)
        strides = stride if first else 1
        self._depthwise_conv = SameConv(middle, middle, kernel, strides, groups=middle, bias=False)
        self._bn1 = norm(middle)
        if not lite:
            self._se_reduce = SameConv(middle, max(1, width // 4), 1)
            self._se_expand = SameConv(max(1, width // 4), middle, 1)
        self._project_conv, self._bn2 = SameConv(middle, wide, 1, bias=False), norm(wide)
        self.lite, self.skips = lite, strides == 1 and width == wide

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(x) if self.lite else F.silu(x)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.act(self._bn0(self._expand_conv(images))) if hasattr(self, "_expand_conv") else images
        x = self.act(self._bn1(self._depthwise_conv(x)))
        if not self.lite:
            gate = self._se_expand(self.act(self._se_reduce(F.adaptive_avg_pool2d(x, 1))))
            x = torch.sigmoid(gate) * x
        x = self._bn2(self._project_conv(x))
        return x + images if self.skips else x


class EfficientNet(nn.Module):
    def __init__(self, lite: bool, classes: int = 10, stages: Sequence[Stage] = B0) -> None:
        super().__init__()
        self.lite = lite
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2, bias=False), norm(32)
        self._blocks, width = nn.ModuleList(), 32
        for stage in stages:
            for number in range(stage[0]):
                self._blocks.append(Block(width, stage, number == 0, lite))
                width = stage[4]
        self._conv_head, self._bn1 = SameConv(width, 1280, 1, bias=False), norm(1280)
        self._fc = nn.Linear(1280, classes)

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(x) if self.lite else F.silu(x)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.act(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            x = block(x)
        return self._fc(self.act(self._bn1(self._conv_head(x))).mean((2, 3)))


def disturbed(model: nn.Module) -> nn.Module:
    """The model with every tensor drawn anew, normalisation's statistics among them, so that no two are equal."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            near = 1.0 if name.endswith("running_var") or ("weight" in name and tensor.ndim == 1) else 0.0
            drawn = torch.randn_like(tensor) * 0.1
            tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn + near if tensor.ndim < 2
                         else drawn / max(1, tensor[0].numel()) ** 0.5 * 10)  # fmt: skip
    return model.eval()
