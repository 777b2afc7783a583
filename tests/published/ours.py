"""Files as the published code would write them, for our networks."""

from torch import Tensor

from published.rule import filled
from segrefine.models.network import SegmentationModel
from segrefine.weights.published import FORMS


def published_tensors(net: SegmentationModel) -> dict[str, Tensor]:
    """The tensors of a file for the network, by their published names and filled by the rule."""
    form = next(form for form in FORMS if isinstance(net.decoder, form.decoder))
    state = net.state_dict()
    return {theirs: filled(theirs, state[ours]) for ours, theirs in form.tensor_names(net).items()}
