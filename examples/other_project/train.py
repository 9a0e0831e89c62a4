"""Trains on two spirals: python train.py init=kaiming_normal"""

import hydra
from hydra.core.hydra_config import HydraConfig

import modelfactory as mf

mf.trust("other_project")  # so that configs may name what is in this package


@hydra.main(version_base="1.3", config_path="conf", config_name="app")  # from Hydra 1.4 on without version_base
def main(cfg):
    folder = HydraConfig.get().runtime.output_dir
    result = mf.train(cfg, run_dir=folder)
    print(f"{cfg.title}: {result.outcome}: {folder}")


if __name__ == "__main__":
    main()
