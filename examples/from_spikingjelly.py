"""A training script of SpikingJelly, with the lines that make it sparse and fast: python from_spikingjelly.py."""

import torch
from sklearn.datasets import load_digits
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import ndsnn

T, BATCH = 4, 64


def lif():
    return neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True)


def main(epochs=8):
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.images[:, None] / 16).float(), torch.tensor(digits.target)
    train, test = slice(0, 1408), slice(1408, None)

    net = nn.Sequential(
        layer.Conv2d(1, 32, 3, padding=1, bias=False),
        layer.BatchNorm2d(32),
        lif(),
        layer.Conv2d(32, 64, 3, padding=1, bias=False),
        layer.BatchNorm2d(64),
        lif(),
        layer.MaxPool2d(2, 2),
        layer.Flatten(),
        layer.Linear(64 * 4 * 4, 10),
    )
    functional.set_step_mode(net, "m")
    ndsnn.sparsify(net, 0.5)  # new
    net = ndsnn.accelerate(net)  # new
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    rewire = ndsnn.NDSNN(net, optimizer, final_sparsity=0.9, total_steps=1408 // BATCH * epochs)  # new
    for epoch in range(epochs):
        net.train()
        for batch in torch.randperm(1408).split(BATCH):
            x = images[train][batch].unsqueeze(0).repeat(T, 1, 1, 1, 1)
            loss = nn.functional.cross_entropy(net(x).mean(0), labels[train][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rewire.step()  # new
            functional.reset_net(net)
        net.eval()
        with torch.no_grad():
            found = net(images[test].unsqueeze(0).repeat(T, 1, 1, 1, 1)).mean(0).argmax(1)
        functional.reset_net(net)
        accuracy = (found == labels[test]).float().mean().item()
        print(f"epoch {epoch + 1}: accuracy {accuracy:.3f} at sparsity {ndsnn.sparsity(net):.3f}")
    return accuracy, ndsnn.to_dense(net)


if __name__ == "__main__":
    main()
