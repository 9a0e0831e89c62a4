"""A loop of one's own over a model, data, optimizer and schedule of a config: python train.py model=cnn init=orthogonal"""

import sys

import torch

import modelfactory as mf
from modelfactory.data import make_batches


def main(*overrides: str) -> float:
    cfg = mf.compose("model=mlp", "model.width=64", "scheduler=cosine", "trainer.max_epochs=3", *overrides)
    model, data = mf.build(cfg), mf.build_data(cfg)
    optimizer = mf.build_optimizer(model, cfg)
    schedule = mf.build_scheduler(optimizer, cfg)
    batches = make_batches(data.train, data.batch_size, torch.device("cpu"), seed=data.seed)
    accuracy, steps = 0.0, 0
    for epoch in range(1, cfg.trainer.max_epochs + 1):
        model.train()
        for x, y in batches.epoch(epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step_done()
            steps += 1
        measured = mf.evaluate(model, data)
        schedule.epoch_done(steps, measured["loss"])
        accuracy = measured["accuracy"]
        print(f"epoch {epoch}: loss {measured['loss']:.4f}, accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main(*sys.argv[1:])
