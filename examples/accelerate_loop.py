"""A loop over Hugging Face Accelerate with gradient accumulation, trained sparse: python accelerate_loop.py."""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ndsnn


def main(epochs=8, checkpoint=None):
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    digits = load_digits()
    images, labels = torch.tensor(digits.images[:, None] / 16).float(), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images[:1408], labels[:1408]), batch_size=32, shuffle=True)

    net = ndsnn.models.vgg([16, "M", 32, "M"], num_classes=10, time_steps=4, in_channels=1)
    ndsnn.sparsify(net, 0.5)  # new
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    steps = epochs * len(loader) // accelerator.gradient_accumulation_steps
    rewire = ndsnn.NDSNN(net, optimizer, final_sparsity=0.9, total_steps=steps)  # new
    rewire.attach(optimizer)  # new: counts the steps that the optimizer really takes
    accelerator.register_for_checkpointing(rewire)  # new

    for epoch in range(epochs):
        net.train()
        for x, y in loader:
            with accelerator.accumulate(net):
                loss = nn.functional.cross_entropy(net(x).mean(0), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        net.eval()
        with torch.no_grad():
            found = net(images[1408:]).mean(0).argmax(1)
        accuracy = (found == labels[1408:]).float().mean().item()
        print(f"epoch {epoch + 1}: accuracy {accuracy:.3f} at sparsity {ndsnn.sparsity(net):.3f}")
    if checkpoint is not None:
        accelerator.save_state(checkpoint)
    return accuracy, ndsnn.sparsity(net)


if __name__ == "__main__":
    main()
