"""A training script of snnTorch, with the lines that make it sparse and fast: python from_snntorch.py."""

import snntorch as snn
import torch
from sklearn.datasets import load_digits
from snntorch import functional
from torch import nn

import ndsnn

T, BATCH = 10, 64


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(64, 256), snn.Leaky(beta=0.9, reset_mechanism="zero")
        self.fc2, self.lif2 = nn.Linear(256, 256), snn.Leaky(beta=0.9, reset_mechanism="zero")
        self.fc3, self.lif3 = nn.Linear(256, 10), snn.Leaky(beta=0.9)

    def forward(self, x):
        mem1, mem2, mem3 = self.lif1.reset_mem(), self.lif2.reset_mem(), self.lif3.reset_mem()
        spikes, membranes = [], []
        for _ in range(T):
            spk, mem1 = self.lif1(self.fc1(x), mem1)
            spk, mem2 = self.lif2(self.fc2(spk), mem2)
            spk, mem3 = self.lif3(self.fc3(spk), mem3)
            spikes.append(spk)
            membranes.append(mem3)
        return torch.stack(spikes), torch.stack(membranes)


def main(epochs=8):
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    train, test = slice(0, 1408), slice(1408, None)

    net, loss_function = Net(), functional.ce_rate_loss()
    ndsnn.sparsify(net, 0.5)  # new
    net = ndsnn.accelerate(net)  # new
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    rewire = ndsnn.NDSNN(net, optimizer, final_sparsity=0.9, total_steps=1408 // BATCH * epochs)  # new
    for epoch in range(epochs):
        for batch in torch.randperm(1408).split(BATCH):
            spikes, _ = net(images[train][batch])
            loss = loss_function(spikes, labels[train][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rewire.step()  # new
        accuracy = functional.accuracy_rate(net(images[test])[0], labels[test])
        print(f"epoch {epoch + 1}: accuracy {accuracy:.3f} at sparsity {ndsnn.sparsity(net):.3f}")
    return accuracy, ndsnn.to_dense(net)


if __name__ == "__main__":
    main()
