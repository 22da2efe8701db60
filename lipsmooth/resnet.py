"""Residual networks for CIFAR: those of He et al. 2016, and a fast shallow one.

Layers of `ResNet` carry the names that the published checkpoints of Cohen et al. 2019
use.
"""

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut.

    Where the shape changes, the shortcut is a normalised 1 × 1 convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(before, after, stride)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = _convolution(after, after)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, before, H, W) to (batch, after, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += shortcut
        return self.relu(y)


class ResNet(nn.Module):
    """A residual network in three stages of 16, 32 and 64 channels.

    Parameters
    ----------
    depth : int
        Layers with weights, shortcuts not counted: 6 k + 2.
    channels, num_classes : int
        Of the images and of the scores.

    Raises
    ------
    ValueError
        If ``depth`` is not of that form, or below 8.
    """

    def __init__(self, depth: int, *, channels: int = 3, num_classes: int = 10) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 8, 14, 20, …, 6k + 2, got {depth}")
        super().__init__()
        self.conv1 = _convolution(channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        stages = []
        for before, after, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            rest = [Block(after, after, 1) for _ in range((depth - 2) // 6 - 1)]
            stages.append(nn.Sequential(Block(before, after, stride), *rest))
        self.layer1, self.layer2, self.layer3 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (batch, num_classes) of images (batch, channels, H, W)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


class Residual(nn.Module):
    """Two normalised 3 × 3 convolutions, added to what they are given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normalised(channels, channels), *_normalised(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, H, W) to the same shape."""
        return x + self.layers(x)


def resnet9(*, channels: int = 3, num_classes: int = 10, width: int = 64) -> nn.Module:
    """Return the shallow network that trains fast: eight convolutions, one linear map.

    Few layers with many channels keep a GPU's matrix units busy where the 110 thin
    layers of `ResNet` mostly wait for memory.

    Parameters
    ----------
    channels, num_classes : int
        Of the images and of the scores.
    width : int
        Channels after the first layer, at least 1; eight times as many after the last.
        64 makes 6.6 million parameters, 16 makes 0.4 million.

    Returns
    -------
    nn.Sequential
        From images of at least 8 × 8 pixels to scores.

    Raises
    ------
    ValueError
        If ``width`` is below 1.

    References
    ----------
    The arrangement is ResNet-9 of D. Page's entry to DAWNBench, 2018.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    return nn.Sequential(
        *_normalised(channels, width),
        *_normalised(width, 2 * width), nn.MaxPool2d(2), Residual(2 * width),
        *_normalised(2 * width, 4 * width), nn.MaxPool2d(2),
        *_normalised(4 * width, 8 * width), nn.MaxPool2d(2), Residual(8 * width),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8 * width, num_classes),
    )  # fmt: skip


def _normalised(before: int, after: int) -> tuple[nn.Module, ...]:
    norm = nn.BatchNorm2d(after)
    return _convolution(before, after), norm, nn.ReLU(inplace=True)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    # The normalisation that follows has its own bias.
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
