"""The decoders of RefineNet (Lin, Milan, Shen, Reid, CVPR 2017) and its light-weight form (Nekrasov et al., BMVC 2018).

The default is the network of the PyTorch port whose weights people use (refinenet-pytorch), which follows the authors'
release rather than the paper where they differ: four pooling links and three output units against two and one, and no
units for the coarser block's output and before the classifier against two each. `conf/model/refinenet_paper.yaml` is
the paper's.
Letters: B batch, K classes, C channels, h w feature size.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Any

import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.core.options import Count, Positive, Whole
from segrefine.core.registry import register_decoder
from segrefine.models.decoders.base import AuxiliaryHead, Decoder
from segrefine.models.decoders.context import DilationContext
from segrefine.models.upsampling import Interpolate


@dataclass(frozen=True, kw_only=True)
class RefineNetOptions:
    """Options of `conf/model/refinenet*.yaml`.

    Attributes:
        cascade: the strides that each block takes in, coarse to fine: [[32], [16], [8], [4]] is the 4-cascade,
            [[32, 16], [8, 4]] the 2-cascade, [[32, 16, 8, 4]] the single block (paper, Figure 6).
        widths: `{stride: width}` to which a tap is adapted: 512 for stride 32 and 256 for the others (section 4).
        kernel_size: of every convolution outside residual units but the classifier: 3, or 1 for light-weight.
        adapt_units, output_units: residual conv units after adaptation and at a block's end: 2 and 3 (release and port;
            the paper has one at the end), none for light-weight.
        coarse_units: residual conv units for the coarser block's output before it is fused: 0 (release and port; the
            paper has 2, section 3.2, "Residual convolution unit").
        classifier_units: residual conv units between the last block and the classifier: 0 (release and port; the paper
            has 2, section 3.2, "Output convolutions").
        classifier_dropout: probability of dropout before the classifier: 0.5 (port), 0 for light-weight (its code).
        crp_links: links of the chained residual pooling: 4 (release and port; the paper draws 2).
        crp_conv_first: the release's "improved" pooling, each convolution before its pool.
        rcu_shortcut, crp_shortcut: identity paths, for ablation.
        norm: batch norm after every convolution of residual units, of adaptation and of fusion, as RefineNet's
            descendants have it (DPT, Ranftl et al., ICCV 2021, code); neither paper nor release has any.
        auxiliary: weight of a loss at the end of every block but the last, which has the network's own, in training
            alone ("deep supervision", Lee et al., AISTATS 2015); neither paper nor release has any. None for none.
    """

    cascade: Sequence[Sequence[int]]
    widths: Mapping[int, Count]
    kernel_size: Count
    adapt_units: Whole
    output_units: Whole
    classifier_units: Whole
    classifier_dropout: Annotated[float, Interval(ge=0, lt=1)]
    crp_links: Whole
    crp_conv_first: bool
    rcu_shortcut: bool
    crp_shortcut: bool
    coarse_units: Whole = 0
    norm: bool = False
    auxiliary: Positive | None = None

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise UserError(f"model.kernel_size={self.kernel_size} must be odd, so that maps keep their size.")


class ResidualConvUnit(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 3x3 convolution, plus identity (paper, section 3.2).

    As in the port the first convolution has a bias and the second none. `rcu_shortcut=False` drops the identity.
    """

    def __init__(self, channels: int, options: RefineNetOptions) -> None:
        super().__init__()
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=not options.norm)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = _norm(channels, options), _norm(channels, options)
        self.shortcut = options.rcu_shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        residual = self.norm1(self.conv1(self.relu1(x)))
        residual = self.norm2(self.conv2(self.relu2(residual)))
        return x + residual if self.shortcut else residual


class MultiResolutionFusion(nn.Module):
    """A convolution per path to one width, each path upsampled to the largest map, then the sum (section 3.2).

    Convolving before upsampling costs less and is the paper's order. The port upsamples with align_corners=True.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, options: RefineNetOptions) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(channels, out_channels, options.kernel_size) for channels in in_channels)
        self.norms = nn.ModuleList(_norm(out_channels, options) for _ in in_channels)

    def forward(self, paths: Sequence[Tensor]) -> Tensor:
        """[(B, C_i, h_i, w_i)] -> (B, C, max h, max w)."""
        size = paths[0].shape[-2:]
        for path in paths[1:]:  # not by max(): torch.compile would break its graph there
            if path.shape[-2] * path.shape[-1] > size[0] * size[1]:
                size = path.shape[-2:]
        total: Tensor | None = None
        for conv, norm, path in zip(self.convs, self.norms, paths, strict=True):
            path = norm(conv(path))
            if path.shape[-2:] != size:
                path = F.interpolate(path, size, mode="bilinear", align_corners=True)
            total = path if total is None else total + path
        assert total is not None
        return total


class ChainedResidualPooling(nn.Module):
    """ReLU, then a chain of [5x5 max pool of stride 1, convolution], each link's output added to the running sum (3.2).

    `crp_conv_first` puts every convolution before its pool, the release's "improved" pooling. `crp_shortcut=False`
    leaves the bare chain without sums. With no links only the ReLU is left.
    """

    def __init__(self, channels: int, options: RefineNetOptions) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.convs = nn.ModuleList(_conv(channels, channels, options.kernel_size) for _ in range(options.crp_links))
        self.conv_first, self.shortcut = options.crp_conv_first, options.crp_shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        total = path = self.relu(x)
        for conv in self.convs:
            path = _pool(conv(path)) if self.conv_first else conv(_pool(path))
            total = total + path if self.shortcut else path
        return total


class RefineNetBlock(nn.Module):
    """One RefineNet block: adapt each tap, fuse them with the coarser block's output, pool in a chain, refine.

    Figure 3 of the paper.

    Args:
        tap_channels: channels of the encoder maps that come in.
        tap_widths: the width each is adapted to; the block's own width is the smallest of all that is fused.
        coarse: channels of the coarser block's output, or None for the first block.
    """

    def __init__(
        self, tap_channels: Sequence[int], tap_widths: Sequence[int], coarse: int | None, options: RefineNetOptions
    ) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(
            nn.Sequential(
                _conv(channels, width, options.kernel_size),
                *([_norm(width, options)] if options.norm else []),
                *_units(width, options.adapt_units, options),
            )
            for channels, width in zip(tap_channels, tap_widths, strict=True)
        )
        self.adapt_coarse = nn.Sequential(*([] if coarse is None else _units(coarse, options.coarse_units, options)))
        widths = [*tap_widths, *([] if coarse is None else [coarse])]
        self.width = min(widths)
        self.fuse = MultiResolutionFusion(widths, self.width, options) if len(widths) > 1 else None
        self.pool = ChainedResidualPooling(self.width, options)
        self.refine = nn.Sequential(*_units(self.width, options.output_units, options))

    def forward(self, taps: Sequence[Tensor], coarse: Tensor | None) -> Tensor:
        """[(B, C_i, h_i, w_i)] and the coarser block's (B, C, h, w) -> (B, width, max h_i, max w_i)."""
        paths = [adapt(tap) for adapt, tap in zip(self.adapt, taps, strict=True)]
        paths += [] if coarse is None else [self.adapt_coarse(coarse)]
        x = self.fuse(paths) if self.fuse is not None else paths[0]
        return self.refine(self.pool(x))


@register_decoder("refinenet")
class RefineNetDecoder(Decoder):
    """A cascade of RefineNet blocks from coarse to fine, dropout and a 3x3 classifier."""

    Options = RefineNetOptions  # type: ignore[assignment]
    takes_scales = True

    def __init__(
        self, channels: Mapping[Any, int], centers: Mapping[Any, float], num_classes: int, options: RefineNetOptions
    ) -> None:
        super().__init__(num_classes, options)
        strides = [stride for block in options.cascade for stride in block]
        taken = {stride: [key for key in channels if _stride(key) == stride] for stride in strides}
        absent = [stride for stride in strides if not taken[stride] or stride not in options.widths]
        if absent or not strides or not all(options.cascade):
            raise UserError(
                f"model.cascade={[list(block) for block in options.cascade]} must name strides of the encoder's maps, "
                f"which are {sorted({_stride(key) for key in channels})}, each with a width in "
                f"model.widths={dict(options.widths)}."
            )
        self.taps = [[key for stride in block for key in taken[stride]] for block in options.cascade]
        # Ports: dropout 0.5 on the encoder maps of more than 512 channels (l3 and l4 of a bottleneck ResNet).
        self.dropped = {key for key, count in channels.items() if count > 512}
        self.dropout = nn.Dropout(0.5)
        self.blocks = nn.ModuleList()
        coarse: int | None = None
        for keys in self.taps:
            widths = [options.widths[_stride(key)] for key in keys]
            block = RefineNetBlock([channels[key] for key in keys], widths, coarse, options)
            self.blocks.append(block)
            coarse = block.width
        assert coarse is not None
        self.refine = nn.Sequential(*_units(coarse, options.classifier_units, options))
        self.classifier_dropout = nn.Dropout(options.classifier_dropout)
        self.classifier = _classifier(coarse, num_classes)
        finest = min(strides)
        self.to_pixels = Interpolate(finest, centers[taken[finest][0]])
        if options.auxiliary is not None:
            self._add_auxiliary({stride: centers[keys[0]] for stride, keys in taken.items()}, options.auxiliary)

    def _add_auxiliary(self, centers: Mapping[int, float], weight: float) -> None:
        """Add a classifier for the output of every block but the last."""
        if len(self.blocks) == 1:
            raise UserError(
                f"model.auxiliary={weight}: the only block of model.cascade has the network's own loss. Use null."
            )
        self.auxiliary, self.auxiliary_weight = nn.ModuleList(), weight
        finest = max(centers)
        for block, keys in zip(self.blocks[:-1], self.taps[:-1], strict=True):
            assert isinstance(block, RefineNetBlock)
            finest = min(finest, *map(_stride, keys))  # a block's output is as fine as its finest input
            to_pixels = Interpolate(finest, centers[finest])
            self.auxiliary.append(AuxiliaryHead(_classifier(block.width, self.num_classes), to_pixels))

    def relus(self) -> dict[str, nn.Module]:
        """Return those before the pooling, in the context module, and in residual units without identity path."""
        bypassed = () if self.options.rcu_shortcut else (ResidualConvUnit,)
        kinds = (ChainedResidualPooling, DilationContext, *bypassed)
        return {
            f"{name}.{relu}": module
            for name, block in self.named_modules()
            if isinstance(block, kinds)
            for relu, module in block.named_children()
            if isinstance(module, nn.ReLU)
        }

    def last_of_branches(self) -> list[nn.Conv2d]:
        units = [module.conv2 for module in self.modules() if isinstance(module, ResidualConvUnit) and module.shortcut]
        pools = [module for module in self.modules() if isinstance(module, ChainedResidualPooling) and module.shortcut]
        return units + [conv for pool in pools for conv in pool.convs]  # type: ignore[misc]

    def score_layers(self) -> list[nn.Conv2d]:
        return [self.classifier, *(head.score for head in self.auxiliary or ())]  # type: ignore[list-item]

    def forward(self, features: Mapping[Any, Tensor]) -> Tensor:
        """`{stride: (B, C, h, w)}` -> scores (B, K, h, w) on the grid of the finest tap."""
        return self._scores(features, [])[0]

    def all_scores(self, features: Mapping[Any, Tensor]) -> list[Tensor]:
        return self._scores(features, self.auxiliary or [])

    def _scores(self, features: Mapping[Any, Tensor], heads: Iterable[nn.Module]) -> list[Tensor]:
        """Return the classifier's scores, then those of `heads` on the outputs of the first blocks."""
        x: Tensor | None = None
        scores = []
        for block, keys, head in zip_longest(self.blocks, self.taps, heads):
            x = block([self.dropout(features[key]) if key in self.dropped else features[key] for key in keys], x)
            if head is not None:
                scores.append(head(x))
        assert x is not None
        return [self.classifier(self.classifier_dropout(self.refine(x))), *scores]


def _classifier(channels: int, num_classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, num_classes, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.01)  # port and release
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _units(channels: int, count: int, options: RefineNetOptions) -> list[nn.Module]:
    return [ResidualConvUnit(channels, options) for _ in range(count)]


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Create a convolution that keeps the size, without bias: the port has none but in units and the classifier."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)


def _norm(channels: int, options: RefineNetOptions) -> nn.Module:
    return nn.BatchNorm2d(channels) if options.norm else nn.Identity()


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=5, stride=1, padding=2)


def _stride(key: int | tuple[int, float]) -> int:
    """Return the stride of a feature key: the key, or the first of (stride, scale) from an encoder of two scales."""
    return key[0] if isinstance(key, tuple) else key
