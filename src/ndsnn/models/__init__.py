"""The networks: spiking VGG, ResNet-19 and LeNet-5, [N, C, H, W] or [T, N, C, H, W] → logits [T, N, classes]."""

from ndsnn.models.building import MODELS, build
from ndsnn.models.lenet import LeNet5, lenet5
from ndsnn.models.resnet import ResNet19, resnet19, resnet19_tdbn
from ndsnn.models.vgg import VGG, vgg, vgg16

__all__ = [
    "MODELS",
    "VGG",
    "LeNet5",
    "ResNet19",
    "build",
    "lenet5",
    "resnet19",
    "resnet19_tdbn",
    "vgg",
    "vgg16",
]
