"""Other people's networks, to be timed beside ours: `python -m segrefine.benchmark ... peer=benchmarks/peers.py:rf101`.

The published code is no part of this project: SEGREFINE_PORTS names a folder with checkouts of wkentaro/pytorch-fcn
(4b98850), DrSleep/refinenet-pytorch (8f25c07) and DrSleep/light-weight-refinenet (538fe8b), each in a folder of its
name.
"""

import os
import sys
from pathlib import Path

from torch import nn

from segrefine.core.errors import UserError

sys.path.append(str(Path(__file__).parents[1] / "tests" / "published"))  # how each is loaded and built stands there


def _port(name: str) -> nn.Module:
    from record import networks

    folder = Path(os.environ.get("SEGREFINE_PORTS", "SEGREFINE_PORTS"))
    checkouts = [folder / checkout for checkout in ("pytorch-fcn", "refinenet-pytorch", "light-weight-refinenet")]
    absent = [str(checkout) for checkout in checkouts if not checkout.is_dir()]
    if absent:
        raise UserError(f"Set SEGREFINE_PORTS to the folder of the checkouts; not there: {', '.join(absent)}.")
    return networks(*map(str, checkouts))[name][0]()


def fcn8s() -> nn.Module:
    """pytorch-fcn's FCN-8s."""
    return _port("fcn8s")


def rf101() -> nn.Module:
    """refinenet-pytorch's RefineNet-101."""
    return _port("refinenet_101")


def rf_lw50() -> nn.Module:
    """light-weight-refinenet's, over ResNet-50."""
    return _port("refinenet_lw_50")


def fcn_resnet50() -> nn.Module:
    """torchvision's."""
    from torchvision.models.segmentation import fcn_resnet50

    return fcn_resnet50(weights=None, weights_backbone=None, num_classes=21)


def fpn_resnet50() -> nn.Module:
    """segmentation_models_pytorch's FPN."""
    from segmentation_models_pytorch import FPN

    return FPN("resnet50", encoder_weights=None, classes=21)


def ours_fcn8s() -> nn.Module:
    """Our own, to be laid out otherwise."""
    from segrefine.models.build import create_model

    return create_model("fcn8s", "vgg16")


def whole_logits() -> nn.Module:
    """Our refinenet_lw over ResNet-50 with 150 classes as a stranger's network, whose loss is not taken in bands."""
    from segrefine.models.build import create_model

    return nn.Sequential(create_model("refinenet_lw", "resnet50", num_classes=150))
