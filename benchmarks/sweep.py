"""A sweep of 64 small models, against what a user would write.

python benchmarks/sweep.py [rounds] [epochs]

8 schemes x 8 seeds of an MLP of width 128 on digits, Adam, batches of 64, 20 epochs, as whole processes in changing order:
- ours: `train.py -m`, whose jobs are one batched model, each with its run directory and the ranking at the end; and with `sweep.batch=off`
- hydra: a bare application of Hydra around a loop over a DataLoader, basic launcher
- joblib: the same application with Hydra's joblib launcher on two cores
- vmap: one script that trains all of them by torch.func, without a directory

Wall time, the median of the rounds, and of the rounds' own ratios theirs / ours. One round warms up where there are more.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCHEMES = ("kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "orthogonal", "lecun_normal", "trunc_normal", "normal")
BARE = '''
import json

import hydra
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
INIT = {
    "lecun_normal": lambda w: nn.init.normal_(w, 0, w.shape[1] ** -0.5),
    **{name: getattr(nn.init, name + "_") for name in %(schemes)r if hasattr(nn.init, name + "_")},
}


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    torch.manual_seed(cfg.seed)
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            INIT[cfg.init](layer.weight)
            nn.init.zeros_(layer.bias)
    loader = DataLoader(TensorDataset(x[:1438], y[:1438]), batch_size=64, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for epoch in range(cfg.epochs):
        model.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracy = (model(x[1438:]).argmax(1) == y[1438:]).float().mean().item()
    torch.save(model.state_dict(), "model.pt")
    with open("result.json", "w") as file:
        json.dump({"accuracy": accuracy}, file)


main()
'''
VMAP = '''
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

epochs = int(sys.argv[1])
digits = load_digits()
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
models = []
for index in range(64):
    torch.manual_seed(index)
    models.append(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)))
parameters, buffers = stack_module_state(models)
base = models[0]


def loss(parameters, buffers, inputs, targets):
    return nn.functional.cross_entropy(functional_call(base, (parameters, buffers), (inputs,)), targets)


step = vmap(grad(loss), in_dims=(0, 0, 0, 0))
optimizer = torch.optim.Adam(list(parameters.values()), 1e-3, fused=True)
orders = [torch.Generator().manual_seed(index) for index in range(64)]
for epoch in range(epochs):
    order = torch.stack([torch.randperm(1438, generator=generator) for generator in orders])
    for batch in order.split(64, 1):
        gradients = step(parameters, buffers, x[batch], y[batch])
        for name, value in parameters.items():
            value.grad = gradients[name]
        optimizer.step()
with torch.no_grad():
    outputs = vmap(lambda p, b: functional_call(base, (p, b), (x[1438:],)))(parameters, buffers)
print((outputs.argmax(2) == y[1438:]).float().mean(1).max().item())
'''


def commands(folder: Path, epochs: int) -> dict[str, list[str]]:
    swept = [f"init={','.join(SCHEMES)}", "seed=range(8)"]
    ours = [
        *(sys.executable, str(ROOT / "train.py"), "-m", *swept, "model=mlp", "model.width=128", "optimizer=adam"),
        *("trainer.signal=none", f"trainer.max_epochs={epochs}", "trainer.device=cpu", "hydra.sweep.dir=${oc.env:SWEEP}"),
    ]
    bare = [sys.executable, str(folder / "app.py"), "-m", *swept, f"epochs={epochs}"]
    found = {"ours": ours, "ours, batch=off": [*ours, "sweep.batch=off"], "hydra": bare}
    found["joblib"] = [*bare, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    found["vmap"] = [sys.executable, str(folder / "vmap.py"), str(epochs)]
    return found


def write(folder: Path) -> None:
    (folder / "conf").mkdir()
    (folder / "app.py").write_text(BARE % {"schemes": SCHEMES})
    (folder / "vmap.py").write_text(VMAP)
    config = "init: kaiming_normal\nseed: 0\nepochs: 20\nhydra: {sweep: {dir: '${oc.env:SWEEP}'}}\n"
    (folder / "conf" / "config.yaml").write_text(config)


def seconds(command: list[str], folder: Path, name: str) -> float:
    begun = time.perf_counter()
    environment = {**os.environ, "SWEEP": str(folder / "sweeps" / name)}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}")
    return time.perf_counter() - begun


def main(rounds: int = 3, epochs: int = 20) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder)
        made = commands(folder, epochs)
        took: dict[str, list[float]] = {name: [] for name in made}
        for index in range(rounds + (rounds > 1)):
            for name in list(made)[:: 1 if index % 2 else -1]:
                spent = seconds(made[name], folder, f"{index}_{name.replace(' ', '').replace(',', '_').replace('=', '_')}")
                if index or rounds == 1:
                    took[name].append(spent)
        print(f"{'':18}{'s':>8}{'theirs / ours':>16}")
        for name, spent in took.items():
            share = statistics.median(other / own for own, other in zip(took["ours"], spent, strict=True))
            print(f"{name:18}{statistics.median(spent):8.1f}{share:16.2f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
