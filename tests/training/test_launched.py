"""What launchers say of their processes: they train together, or it is an error; never the whole run in each."""

import pytest

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.training.launched import _OTHERS, _TORCHRUN, Launched, launched

MEETING = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
SRUN = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}


@pytest.fixture
def launcher(monkeypatch):
    """Sets the variables of a launcher, and no others."""

    def set_up(**variables):
        for name in (*_TORCHRUN, *(name for names in _OTHERS.values() for name in names), *MEETING):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_up


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Launched()),
        (MEETING, Launched()),
        ({"WORLD_SIZE": "1"}, Launched()),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", **MEETING}, Launched(1, 2, 0)),
        ({"WORLD_SIZE": "2", "RANK": "1", **MEETING}, Launched(1, 2, 1)),
        (SRUN | MEETING, Launched(3, 4, 1)),
        ({"WORLD_SIZE": "8", "RANK": "7", "LOCAL_RANK": "1", **SRUN, **MEETING}, Launched(7, 8, 1)),  # srun torchrun
        ({"WORLD_SIZE": "1", **SRUN}, Launched()),
        ({"SLURM_NTASKS": "4"}, Launched()),  # the shell of an allocation
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, Launched()),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1", **MEETING}, Launched(1, 2, 1)),
        ({"PMI_SIZE": "2", "PMI_RANK": "0", **MEETING}, Launched(0, 2, 0)),
    ],
)
def test_the_place_of_a_process_is_what_its_launcher_says(launcher, variables, expected):
    launcher(**variables)
    assert launched() == expected


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, and RANK, MASTER_ADDR, MASTER_PORT is not set; start with torchrun, or unset WORLD_SIZE"),
        (SRUN, "srun started 4 processes (SLURM_NTASKS), which do not know where to meet; start torchrun by it, or set MASTER_ADDR and"),
        ({"PMI_SIZE": "2", "PMI_RANK": "0", "MASTER_ADDR": "localhost"}, "MPI started 2 processes (PMI_SIZE), which do not know where"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "WORLD_SIZE=1 says that this process is alone"),
    ],
)
def test_processes_that_do_not_know_of_each_other_do_not_train_the_run_each(launcher, variables, said, tmp_path):
    launcher(**variables)
    with pytest.raises(ConfigError) as caught:
        mf.train(mf.compose("trainer=debug", "trainer.progress=none"), run_dir=tmp_path / "run")
    assert said in str(caught.value) and not (tmp_path / "run").exists()


def test_a_sweep_is_started_by_one_process(launcher, tmp_path):
    launcher(WORLD_SIZE="2", RANK="1", **MEETING)
    with pytest.raises(ConfigError, match="hydra.mode: a sweep is started by one process, and there are 2; start it without torchrun"):
        mf.sweep("seed=0,1", folder=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
