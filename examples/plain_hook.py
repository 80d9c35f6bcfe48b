"""A training loop that stays as it is: the optimizer calls the method. python plain_hook.py."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ndsnn


def train(net, optimizer, scaler, loader):
    """Some loop of somebody else's, with a gradient scaler that skips steps; it knows nothing of ndsnn."""
    for images, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images).mean(0), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return loss.item()


def main(epochs=8):
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.images[:, None] / 16).float(), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images[:1408], labels[:1408]), batch_size=64, shuffle=True)

    net = ndsnn.models.vgg([16, "M", 32, "M"], num_classes=10, time_steps=4, in_channels=1)
    ndsnn.sparsify(net, 0.5)  # new
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    rewire = ndsnn.NDSNN(net, optimizer, final_sparsity=0.9, total_steps=len(loader) * epochs)  # new
    rewire.attach(optimizer, on_update=lambda update: print(f"round {update.round} at step {update.step}"))  # new

    scaler = torch.amp.GradScaler("cpu")
    for epoch in range(epochs):
        net.train()
        loss = train(net, optimizer, scaler, loader)
        net.eval()
        with torch.no_grad():
            found = net(images[1408:]).mean(0).argmax(1)
        accuracy = (found == labels[1408:]).float().mean().item()
        print(f"epoch {epoch + 1}: loss {loss:.3f}, accuracy {accuracy:.3f}, sparsity {ndsnn.sparsity(net):.3f}")
    rewire.detach()
    return accuracy, ndsnn.sparsity(net)


if __name__ == "__main__":
    main()
