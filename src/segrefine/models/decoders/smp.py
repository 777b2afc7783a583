"""Decoders of segmentation_models_pytorch (SMP) over the encoders of this package.

Letters: B batch, K classes, C channels, h w feature size, H W input size.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from segrefine.core.errors import UserError, did_you_mean
from segrefine.core.extras import require
from segrefine.core.registry import register_decoder
from segrefine.io.tensors import first_line
from segrefine.models.decoders.base import Decoder
from segrefine.models.upsampling import Corners, Interpolate, Pixels

PACKAGE = "segmentation_models_pytorch"


class Architecture(NamedTuple):
    """What the adapter has to know of one of SMP's networks.

    Attributes:
        module, decoder: where its decoder class is, below `decoders`, and its name.
        width: the argument that says how many channels the decoder gives.
        stride: of the decoder's outcome.
        kernel: of the convolution that scores it, as the network's `segmentation_head` has it.
        needs: what it asks of the encoder beside maps of whole strides.
        fixed: arguments that follow from the encoder.
        pools_to_one: as of `Decoder`.
    """

    module: str
    decoder: str
    width: str
    stride: int
    kernel: int
    needs: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = {}
    pools_to_one: bool = False


ARCHITECTURES = {
    "fpn": Architecture("fpn", "FPNDecoder", "segmentation_channels", 4, 1),
    "unet": Architecture("unet", "UnetDecoder", "decoder_channels", 1, 3, ("stride2",)),
    "unetplusplus": Architecture("unetplusplus", "UnetPlusPlusDecoder", "decoder_channels", 1, 3, ("stride2",)),
    "deeplabv3plus": Architecture(
        *("deeplabv3", "DeepLabV3PlusDecoder", "out_channels", 4, 1, ("stride16",)),
        fixed={"output_stride": 16, "encoder_depth": 5},
        pools_to_one=True,
    ),
    "pspnet": Architecture("pspnet", "PSPDecoder", "out_channels", 16, 3, ("stride16",)),
    "upernet": Architecture("upernet", "UPerNetDecoder", "decoder_channels", 4, 1, pools_to_one=True),
    "segformer": Architecture("segformer", "SegformerDecoder", "segmentation_channels", 4, 1),
}


@register_decoder("smp")
class SMPDecoder(Decoder):
    """A decoder class of SMP and the convolution that scores its outcome, as SMP's network of the name puts them.

    It starts as SMP's (base/initialization.py); `model.init` comes on top.

    Departures: PSPNet pools the deepest map of an encoder that stays at stride 16, as DeepLabV3+ does; SMP cuts the
    encoder off at stride 8, the paper dilates it to that. U-Nets have no convolutions of their own on the deepest map;
    SMP adds them over VGG. Where the encoder has no map at stride 2, U-Nets do without that skip, as SMP's do.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options of `conf/model/smp_*.yaml`.

        Attributes:
            architecture: which of SMP's networks the decoder is from.
            arguments: of SMP's decoder class.
            upsample: "corners", SMP's, which stretches scores from corner to corner and so takes a cell to look up to
                stride - 1 pixels beside where it does, or "interpolate", exact (see `segrefine.models.upsampling`).
                U-Nets score the pixels and have no use for it.
        """

        architecture: Literal["fpn", "unet", "unetplusplus", "deeplabv3plus", "pspnet", "upernet", "segformer"]
        arguments: Mapping[str, int | float | bool | Sequence[int]]
        upsample: Literal["corners", "interpolate"] = "corners"

    def __init__(
        self, channels: Mapping[Any, int], centers: Mapping[Any, float], num_classes: int, options: Options
    ) -> None:
        super().__init__(num_classes, options)
        self.architecture = ARCHITECTURES[options.architecture]
        self.pools_to_one = self.architecture.pools_to_one
        self.strides = [stride for stride in channels if stride >= 4]
        self.decoder = self._create(channels, options)
        width: Any = options.arguments[self.architecture.width]
        width = width[-1] if isinstance(width, Sequence) else width
        kernel, stride = self.architecture.kernel, self.architecture.stride
        self.classifier = nn.Conv2d(width, num_classes, kernel, padding=kernel // 2)
        if options.architecture != "deeplabv3plus":  # which SMP leaves as PyTorch starts it
            start = require(f"{PACKAGE}.base.initialization", "smp", "decoder=smp")
            start.initialize_decoder(self.decoder)
            start.initialize_head(self.classifier)
        exact = Interpolate if options.upsample == "interpolate" else None
        self.to_pixels = Pixels() if stride == 1 else exact(stride, centers[stride]) if exact else Corners(stride)

    @classmethod
    def needs(cls, options: Options) -> tuple[str, ...]:
        """Ask for maps of whole strides, each twice as large as the next, and what the architecture asks for."""
        return ("multiple_of_32", *ARCHITECTURES[options.architecture].needs)

    def _create(self, channels: Mapping[int, int], options: Options) -> nn.Module:
        """Build SMP's decoder for maps of the image, at stride 2 and so on, absent ones without channels."""
        name = f"model=smp_{options.architecture}"
        module = require(f"{PACKAGE}.decoders.{self.architecture.module}.decoder", "smp", name)
        kind = getattr(module, self.architecture.decoder)
        known = inspect.signature(kind).parameters.keys() - {"encoder_channels", "n_blocks", *self.architecture.fixed}
        for argument in options.arguments:
            if argument not in known:
                raise UserError(f"{name} has no option 'arguments.{argument}'.{did_you_mean(argument, known)}")
        widths = [3, channels.get(2, 0), *(channels[stride] for stride in self.strides)]
        try:
            return kind(encoder_channels=widths, **options.arguments, **self.architecture.fixed)
        except (TypeError, ValueError) as error:
            raise UserError(f"{name}: model.arguments={dict(options.arguments)}: {first_line(error)}") from error

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """`{4, 8, 16, 32 or not: (B, C, h, w)}`, 2 too for U-Nets -> scores (B, K, h, w) at the decoder's stride."""
        finest = features[4]
        batch, _, height, width = finest.shape
        image = finest.new_empty(batch, 0, 4 * height, 4 * width)  # whose size alone is asked for
        half = features.get(2, finest.new_empty(batch, 0, 2 * height, 2 * width))
        return self.classifier(self.decoder([image, half, *(features[stride] for stride in self.strides)]))
