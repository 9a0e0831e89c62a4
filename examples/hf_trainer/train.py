"""A model of a config under the Trainer of transformers: python train.py model=cnn init=orthogonal (pip install transformers accelerate)"""

import sys
import tempfile

import torch
from transformers import Trainer, TrainingArguments

import modelfactory as mf


class WithLoss(torch.nn.Module):
    """What Trainer asks of a model: a loss, and logits, of arguments by name."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, labels=None):
        logits = self.model(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class Samples(torch.utils.data.Dataset):
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        return {"x": self.split.x[index], "labels": self.split.y[index]}


def main(*overrides: str) -> float:
    cfg = mf.compose("model=mlp", "model.width=64", "trainer.max_epochs=3", *overrides)
    data = mf.build_data(cfg)
    model = WithLoss(mf.build(cfg))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            num_train_epochs=cfg.trainer.max_epochs,
            per_device_train_batch_size=data.batch_size,
            learning_rate=cfg.optimizer.lr,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model,
            settings,
            train_dataset=Samples(data.train),
            eval_dataset=Samples(data.val),
            compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
            optimizers=(mf.build_optimizer(model.model, cfg), None),
        )
        trainer.train()
        accuracy = trainer.evaluate()["eval_accuracy"]
    print(f"accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main(*sys.argv[1:])
