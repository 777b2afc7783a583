"""VGG encoders: torchvision's VGG, its classifier recast as convolutions where a decoder asks for it.

Simonyan and Zisserman, ICLR 2015; the recasting is FCN's (Long, Shelhamer, Darrell, CVPR 2015, section 3.1).
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.models.encoders.base import Encoder, for_channels

VGGS = ("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn")

CAFFE_MEAN = (122.67892, 116.66877, 104.00699)
"""Mean red, green and blue, 0..255, that FCN's release takes from its images (voc_layers.py, as BGR)."""


class VGGEncoder(Encoder):
    """torchvision's VGG convolutions, tapped after pool2, pool3, pool4 and pool5 (strides 4, 8, 16, 32), as FCN does.

    With `classifier_channels` the map at stride 32 continues through fc6 (7x7, padded to keep its size) and fc7 (1x1),
    each with ReLU and dropout 0.5 as in VGG's classifier; 4096 is the published width.

    What a decoder may need of it:

    - "caffe": FCN's geometry as released (voc-fcn8s/net.py): conv1_1 padded by 100 pixels, so that fc6 needs no padding
      of its own whatever the image's size, and pools that round up;
    - "large_fov": VGG as DeepLab-LargeFOV has it (release, test.prototxt): 3x3 pools, padded by 1, the last two of
      stride 1, and dilation 2 between these. It publishes strides 4 and 8, rounded up;
    - "stride16": a last pool like that, of stride 1, so that strides end at 16;
    - "stride2": the map at stride 2 too;
    - "indices": the map at stride 2, and the indices of every pool, too.
    """

    def __init__(
        self, name: str, classifier_channels: int = 0, needs: Collection[str] = (), in_channels: int = 3
    ) -> None:
        super().__init__()
        self.features = getattr(torchvision.models, name)(weights=None).features
        self.features[0] = for_channels(self.features[0], in_channels)
        caffe = "caffe" in needs
        if "large_fov" in needs:
            self._widen_view()
        if "stride16" in needs:
            last = self.features[-1]
            last.kernel_size, last.padding, last.stride = 3, 1, 1
        if "indices" in needs:
            for stage in self.stages:
                stage[-1].return_indices = True  # type: ignore[assignment]
            convolutions = [sum(isinstance(layer, nn.Conv2d) for layer in stage) for stage in self.stages]
            self.depths = dict(zip((2, 4, 8, 16, 32), convolutions, strict=True))
        if caffe:
            if not classifier_channels:
                raise UserError("model.geometry=caffe pads for fc6: backbone.classifier_channels must be 1 or more.")
            # The color of the padding; in float32, as weights have it.
            self.mean = (np.array(CAFFE_MEAN, np.float32) / np.float32(255)).tolist()
            self.features[0].padding = (100, 100)
            for layer in self.features:
                if isinstance(layer, nn.MaxPool2d):
                    layer.ceil_mode = True
        self.classifier: nn.Module = nn.Identity()
        if classifier_channels:
            self._add_classifier(classifier_channels, padded=not caffe)
        maps = self._find_maps()
        taken = [stride for stride in maps if stride >= (2 if {"stride2", "indices"} & set(needs) else 4)]
        self.channels = {stride: maps[stride][0] for stride in taken}
        self.centers = {stride: maps[stride][1] for stride in taken}

    def _widen_view(self) -> None:
        """Give the features DeepLab-LargeFOV's pools, and dilation in place of the strides that these lose."""
        pools = 0
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                pools += 1
                layer.kernel_size, layer.padding, layer.stride = 3, 1, 2 if pools <= 3 else 1
            elif isinstance(layer, nn.Conv2d) and pools == 4:
                layer.dilation, layer.padding = (2, 2), (2, 2)

    def _add_classifier(self, width: int, padded: bool) -> None:
        """Add fc6 and fc7 of this width after the last pool; `padded`, they keep its size."""
        # fc6 holds most of the numbers, and AdamW takes four times as long over them with channels last.
        self.cpu_layout = torch.contiguous_format
        self.classifier = nn.Sequential()
        for layer, channels, size in (("6", self._find_maps()[32][0], 7), ("7", width, 1)):
            convolution = nn.Conv2d(channels, width, size, padding=size // 2 if padded else 0)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # as VGG's own layers in torchvision
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            self.classifier.add_module("fc" + layer, convolution)
            self.classifier.add_module("relu" + layer, nn.ReLU(inplace=True))
            self.classifier.add_module("drop" + layer, nn.Dropout(0.5))

    def _find_maps(self) -> dict[int, tuple[int, float]]:
        """Return `{stride: (channels, center)}` of the maps after the last pool at each stride, and at the end.

        A layer with kernel k, dilation d, stride s and padding p puts its cell j on position s * j + d * (k - 1) / 2 -
        p of its input (Caffe's coord_map.py).
        """
        width, stride, center, maps = 0, 1, 0.0, {}
        for layer in (*self.features, *self.classifier.modules()):
            if not isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
                continue
            geometry = layer.kernel_size, layer.dilation, layer.stride, layer.padding
            kernel, dilation, step, padding = (_side(value) for value in geometry)
            center += stride * (dilation * (kernel - 1) / 2 - padding)
            stride *= step
            if isinstance(layer, nn.Conv2d):
                width = layer.out_channels
            else:
                maps[stride] = width, center
        return maps | {stride: (width, center)}

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The layers in five stages, each of which ends in a pool."""
        stages: list[list[nn.Module]] = [[]]
        for layer in self.features:
            stages[-1].append(layer)
            if isinstance(layer, nn.MaxPool2d):
                stages.append([])
        return stages[:5]

    def forward(self, images: Tensor) -> dict[Any, Any]:
        """(B, channels, H, W) -> {4, 8, 16, 32: (B, C, h, w)}, h = floor(H / stride) except in Caffe's geometry.

        H is that after `prepare`. With "large_fov" {4, 8: (B, C, h, w)}, h = ceil(H / stride). With "stride2" or
        "indices" also 2, and with "indices" also `("pool", stride)`.
        """
        x, stride = self.prepare(images), 1
        features: dict[Any, Any] = {}
        for layer in self.features:
            size = x.shape[-2:]
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                stride *= _side(layer.stride)
                if self.depths:
                    x, indices = x
                    features["pool", stride] = indices, size
                features[stride] = x
        features[stride] = self.classifier(x)
        return {key: features[key] for key in (*self.channels, *(("pool", stride) for stride in self.depths))}


def _side(value: Any) -> int:
    """Return one side of a size that PyTorch stores as a number or as a pair of equal numbers."""
    return value[0] if isinstance(value, tuple) else value
