"""What FCN dilated to stride 8 is timed beside."""

from torch import nn

from segrefine import create_model


def refinenet() -> nn.Module:
    """RefineNet over the same ResNet-50, as wide as published."""
    return create_model("refinenet", backbone="resnet50", num_classes=21)
