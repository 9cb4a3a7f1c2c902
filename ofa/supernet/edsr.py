"""A network that enlarges pictures."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class EDSR(nn.Module):
    """Residual blocks without normalisation at the size of the input, then one step up to the size of the output.

    Shape:
        - images: ``(N, in_chans, H, W)``, from 0 to 1
        - output: ``(N, num_classes, factor * H, factor * W)``

    References:
        Lim et al., Enhanced deep residual networks for single image super-resolution, arXiv:1707.02921, fig. 3, without
        its layers after the step up (Shi et al., arXiv:1609.05158, which cost four times as much there), and with the
        bilinear enlargement added, so that the network learns what is missing from it (Kim et al., VDSR,
        arXiv:1511.04587). The baseline has 16 blocks of 64 channels.
    """

    def __init__(
        self, num_classes: int = 3, in_chans: int = 3, *, num_blocks: int = 16, num_channels: int = 64, factor: int = 2
    ) -> None:
        super().__init__()
        self.default_cfg = {"input_size": (in_chans, 48, 48)}
        self.factor = factor
        self.head = nn.Conv2d(in_chans, num_channels, 3, padding=1)
        self.body = nn.Sequential(*(_Block(num_channels) for _ in range(num_blocks)))
        self.fuse = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        self.up = nn.Conv2d(num_channels, num_classes * factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(factor)
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)  # begin as the bilinear enlargement

    def forward(self, images: Tensor) -> Tensor:
        features = self.head(images)
        features = features + self.fuse(self.body(features))
        enlarged = functional.interpolate(images, scale_factor=self.factor, mode="bilinear", align_corners=False)
        return enlarged + self.shuffle(self.up(features))


class _Block(nn.Module):
    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(num_channels, num_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act(self.conv1(x)))
