"""The networks: spiking VGG, ResNet-19, LeNet-5 and MLP, [N, C, H, W] or [T, N, C, H, W] → logits [T, N, K]."""

from ndsnn.models.building import MODELS, build
from ndsnn.models.lenet import LeNet5, lenet5
from ndsnn.models.mlp import MLP, mlp
from ndsnn.models.resnet import ResNet19, resnet19, resnet19_tdbn
from ndsnn.models.vgg import VGG, vgg, vgg16

__all__ = [
    "MLP",
    "MODELS",
    "VGG",
    "LeNet5",
    "ResNet19",
    "build",
    "lenet5",
    "mlp",
    "resnet19",
    "resnet19_tdbn",
    "vgg",
    "vgg16",
]
