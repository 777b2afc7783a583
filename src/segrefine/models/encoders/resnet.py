"""ResNet encoders: torchvision's residual networks without their classifier (He et al., CVPR 2016)."""

from collections.abc import Collection
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from segrefine.core.errors import UserError
from segrefine.models.encoders.base import Encoder, for_channels

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class ResNetEncoder(Encoder):
    """torchvision's ResNet up to its last stage, under torchvision's parameter names.

    What a decoder may need of it:

    - "dilation": the last two stages trade their stride for dilation 2 and 4, so that the deepest map stays at stride 8
      (as torchvision's FCN and DeepLab do). torchvision offers this for bottleneck blocks, 50 layers and more;
    - "stride16": the last stage alone trades its stride for dilation 2, in the same way and at any depth;
    - "stride2": the map at stride 2 too, after the first convolution;
    - "auxiliary": under that key the map before the last stage too, which with "dilation" is at the same stride.
    """

    def __init__(self, name: str, needs: Collection[str] = (), in_channels: int = 3) -> None:
        super().__init__()
        dilated = "dilation" in needs
        if dilated and name in ("resnet18", "resnet34"):
            raise UserError(f"backbone={name} cannot be dilated: it takes resnet50, resnet101 or resnet152.")
        options = {"replace_stride_with_dilation": [False, True, True]} if dilated else {}
        net = getattr(torchvision.models, name)(weights=None, **options)
        self.conv1 = for_channels(net.conv1, in_channels)
        self.bn1, self.relu, self.maxpool = net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.strides = (4, 8, 8, 8) if dilated else (4, 8, 16, 32)
        if "stride16" in needs:
            self._dilate_last_stage()

        last = (stage[-1] for stage in (net.layer1, net.layer2, net.layer3, net.layer4))
        widths = [getattr(block, "conv3", block.conv2).out_channels for block in last]
        # Where dilation leaves stages at one stride, the last of them counts.
        self.channels: dict[Any, int] = {2: self.conv1.out_channels} if "stride2" in needs else {}
        self.channels |= dict(zip(self.strides, widths, strict=True))
        self.channels |= {"auxiliary": widths[2]} if "auxiliary" in needs else {}
        # Every stride of a ResNet is an odd kernel with symmetric padding: cell j looks at pixel stride * j exactly.
        self.centers = dict.fromkeys(self.channels, 0.0)

    def _dilate_last_stage(self) -> None:
        self.strides = (4, 8, 16, 16)
        for layer in self.layer4.modules():
            if isinstance(layer, nn.Conv2d):
                # What had the stride sees the same as before; what comes after it sees every other cell.
                if layer.kernel_size == (3, 3) and layer.stride == (1, 1):
                    layer.dilation = layer.padding = (2, 2)
                layer.stride = (1, 1)

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The layers in five stages, each of which halves the resolution (conv1 and the four stages of blocks)."""
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def relus(self) -> dict[str, nn.Module]:
        """Return the first ReLU and the residual blocks, each of which ends in one that its identity path runs into."""
        blocks = (BasicBlock, Bottleneck)
        return {"relu": self.relu} | {name: part for name, part in self.named_modules() if isinstance(part, blocks)}

    def forward(self, images: Tensor) -> dict[Any, Tensor]:
        """(B, channels, H, W) -> {stride: (B, C, ceil(H / stride), ceil(W / stride))}.

        H and W are those after `prepare`. Strides are 4, 8, 16 and 32, with 2 or without 16 or 32 where so needed.
        """
        x = self.relu(self.bn1(self.conv1(self.prepare(images))))
        features: dict[Any, Tensor] = {2: x} if 2 in self.channels else {}
        x = self.maxpool(x)
        for stride, stage in zip(self.strides, (self.layer1, self.layer2, self.layer3, self.layer4), strict=True):
            x = stage(x)
            features[stride] = x
            if stage is self.layer3 and "auxiliary" in self.channels:
                features["auxiliary"] = x
        return features
