"""A backbone with a linear head, from uint8 images: teachers of ours, and students."""

from torch import Tensor, nn

from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.nets.build import build
from kfdeploy.training.recipe import nets


class Normalise(nn.Module):
    """From uint8 (N, H, W, C) to float (N, C, H, W), minus the mean and over the deviation of values in [0, 1]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, image: ImageSpec) -> None:
        super().__init__()
        import torch

        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (image.mean, image.std))
        # One multiplication and one addition: x/255 → (x/255 − mean) / std = x · scale + shift.
        self.register_buffer("scale", (1 / (255 * std)).float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).float().view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return (N, C, H, W)."""
        return image.float().permute(0, 3, 1, 2) * self.scale + self.shift


class Classifier(nn.Module):
    """A backbone, global average pooling and a linear head: teachers of ours, and students."""

    def __init__(self, net: nets.Net, image: ImageSpec, classes: int) -> None:
        super().__init__()
        self.normalise = Normalise(image)
        self.backbone = build(net, image.channels)
        self.head = nn.Linear(self.backbone.channels[-1], classes)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits (N, C) and the stages' features, from uint8 (N, H, W, C)."""
        features = self.backbone(self.normalise(image))
        return self.head(features[-1].mean((2, 3))), features
