"""Pure loss functions: tensors in, a scalar out, always in float32."""

from kfdeploy.objectives.information import bottleneck, infomax, infomax_reference, infomin_reference
from kfdeploy.objectives.transfer import other_targets, soft_targets, task_information

__all__ = [
    "bottleneck",
    "infomax",
    "infomax_reference",
    "infomin_reference",
    "other_targets",
    "soft_targets",
    "task_information",
]
