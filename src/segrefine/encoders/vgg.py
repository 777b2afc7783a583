"""VGG encoders: torchvision's VGG, its classifier recast as convolutions where a decoder asks for it.

Simonyan and Zisserman, ICLR 2015; the recasting is FCN's (Long, Shelhamer, Darrell, CVPR 2015, section 3.1).
"""

import torchvision
from torch import Tensor, nn

from segrefine.encoders.base import Encoder

VGGS = ("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn")


class VGGEncoder(Encoder):
    """torchvision's VGG convolutions, tapped after pool2, pool3, pool4 and pool5 (strides 4, 8, 16, 32), as FCN does.

    With `classifier_channels` the map at stride 32 goes on through fc6 (7x7, padded to keep its size) and fc7 (1x1),
    each with ReLU and dropout 0.5 as in VGG's classifier; 4096 is the published width.
    """

    def __init__(self, name: str, classifier_channels: int = 0) -> None:
        super().__init__()
        self.features = getattr(torchvision.models, name)(weights=None).features
        self.channels = {4: 128, 8: 256, 16: 512, 32: classifier_channels or 512}
        # A 2x2 pool puts its output between two inputs: cell j covers pixels stride * j to stride * j + stride - 1.
        self.centres = {stride: (stride - 1) / 2 for stride in self.channels}
        self.classifier: nn.Module = nn.Identity()
        if classifier_channels:
            self.classifier = nn.Sequential()
            for layer, width, size in (("6", 512, 7), ("7", classifier_channels, 1)):
                convolution = nn.Conv2d(width, classifier_channels, size, padding=size // 2)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # as VGG's own layers in torchvision
                nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
                self.classifier.add_module("fc" + layer, convolution)
                self.classifier.add_module("relu" + layer, nn.ReLU(inplace=True))
                self.classifier.add_module("drop" + layer, nn.Dropout(0.5))

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The layers in five stages, each of which ends in a pool that halves the resolution."""
        stages: list[list[nn.Module]] = [[]]
        for layer in self.features:
            stages[-1].append(layer)
            if isinstance(layer, nn.MaxPool2d):
                stages.append([])
        return stages[:5]

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) -> {4, 8, 16, 32: (B, C, floor(H / stride), floor(W / stride))}."""
        x, stride, features = images, 1, {}
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                stride *= 2
                features[stride] = x
        features[32] = self.classifier(features[32])
        return {stride: features[stride] for stride in self.channels}
