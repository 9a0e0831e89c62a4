"""A model of a config in a LightningModule: python train.py model=cnn init=orthogonal (pip install lightning)"""

import sys

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import modelfactory as mf


class Classifier(lightning.LightningModule):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.model = mf.build(cfg)  # a plain nn.Module: checkpoints, strategies and precision are Lightning's

    def training_step(self, batch, batch_index):
        x, y = batch
        return torch.nn.functional.cross_entropy(self.model(x), y)

    def validation_step(self, batch, batch_index):
        x, y = batch
        self.log("val_accuracy", (self.model(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return mf.build_optimizer(self.model, self.cfg)


def loader(split, **keys):
    return DataLoader(TensorDataset(split.x, split.y), **keys)


def main(*overrides: str) -> float:
    cfg = mf.compose("model=mlp", "model.width=64", "trainer.max_epochs=3", *overrides)
    data = mf.build_data(cfg)
    trainer = lightning.Trainer(
        max_epochs=cfg.trainer.max_epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    train = loader(data.train, batch_size=data.batch_size, shuffle=True)
    trainer.fit(Classifier(cfg), train, loader(data.val, batch_size=data.batch_size))
    accuracy = float(trainer.callback_metrics["val_accuracy"])
    print(f"accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main(*sys.argv[1:])
