"""A LightningModule, trained sparse by a callback: python lightning_loop.py."""

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ndsnn
from ndsnn.interop.lightning import SparseTrainingCallback  # new


class Digits(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = ndsnn.models.vgg([16, "M", 32, "M"], num_classes=10, time_steps=4, in_channels=1)
        ndsnn.sparsify(self.net, 0.5)  # new

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0]).mean(0), batch[1])

    def validation_step(self, batch, _):
        found = self.net(batch[0]).mean(0).argmax(1)
        self.log("accuracy", (found == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)
        return [optimizer], [schedule]


def main(epochs=8, directory="lightning_run"):
    torch.manual_seed(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.images[:, None] / 16).float(), torch.tensor(digits.target))
    train, test = torch.utils.data.random_split(data, (1408, 389))
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=directory,
        callbacks=[SparseTrainingCallback("ndsnn", final_sparsity=0.9)],  # new
    )
    module = Digits()
    trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True), DataLoader(test, batch_size=389))
    accuracy = trainer.callback_metrics["accuracy"].item()
    print(f"accuracy {accuracy:.3f} at sparsity {ndsnn.sparsity(module):.3f}")
    return accuracy, ndsnn.sparsity(module)


if __name__ == "__main__":
    main()
