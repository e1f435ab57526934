"""Pure loss functions: tensors in, a scalar out, always in float32."""

from kfdeploy.objectives.information import bottleneck, infomax, infomax_reference, infomin_reference
from kfdeploy.objectives.transfer import (
    against_other,
    other_targets,
    rest_as_other,
    soft_targets,
    soft_targets_each,
    task_information,
)

__all__ = [
    "against_other",
    "bottleneck",
    "infomax",
    "infomax_reference",
    "infomin_reference",
    "other_targets",
    "rest_as_other",
    "soft_targets",
    "soft_targets_each",
    "task_information",
]
