"""Check what a config gives Hydra to call, to import, to set and to write: plain values in, a problem for each that is refused.

Nothing here resolves an interpolation: what is checked must be what is used, so that the caller resolves once, has the plain values
checked, and hands on only those (`modelfactory.config.checked`). Logging has rules of its own (`modelfactory.config.log_config`).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from modelfactory.config.errors import Problems
from modelfactory.config.schema import join
from modelfactory.config.target import resolve, trusted, trusted_variables

MAX_DEPTH = 50  # levels of a value that are looked at; what is deeper is refused
CALLBACKS = frozenset(
    (
        "modelfactory.cli.hydra_app.CheckBeforeRun",
        "hydra.experimental.callbacks.LogJobReturnCallback",
        "hydra.experimental.callbacks.PickleJobInfoCallback",
    )
)
_SEARCHED = ("modelfactory", "hydra")  # packages that pkg:// may name, beside those that are trusted
_PLUGINS = "hydra_plugins."
_OURS = ("modelfactory.",)
_SUBMITIT = (
    "submitit_folder timeout_min cpus_per_task gpus_per_node tasks_per_node mem_gb nodes name stderr_to_stdout "  # of any executor
    "partition qos comment constraint exclude gres cpus_per_gpu gpus_per_task mem_per_gpu mem_per_cpu account signal_delay_s "
    "max_num_timeout array_parallelism"
)
# Launchers and sweepers with the arguments that may be given: those that are neither a command, nor a module, nor another machine
_ARGUMENTS = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher": "",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper": "max_batch_size params.*",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": "n_jobs backend prefer require verbose timeout pre_dispatch "
    "batch_size temp_folder max_nbytes mmap_mode inner_max_num_threads",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": _SUBMITIT,
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": _SUBMITIT,
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher": "ray.init.address ray.init.num_cpus ray.init.num_gpus ray.init.namespace "
    "ray.init.include_dashboard ray.init.object_store_memory ray.init.log_to_driver ray.init.local_mode ray.init.ignore_reinit_error "
    "ray.init.logging_level ray.remote.num_cpus ray.remote.num_gpus ray.remote.memory ray.remote.max_calls ray.remote.max_retries "
    "ray.remote.resources.*",
}
# Arguments of those for which not every value will do: older joblib evaluates the first as Python, the second is another's computer
_VALUES = {"pre_dispatch": re.compile(r"all|\d+|((\d+(\.\d+)?\s*\*\s*)?n_jobs)"), "ray.init.address": re.compile(r"auto|local")}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # ends a line of a script that a launcher writes
# What a config may set for its jobs: variables that name no program, library, file, folder or server
_VARIABLES = frozenset(
    """
    CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER CUDA_LAUNCH_BLOCKING CUDA_DEVICE_MAX_CONNECTIONS CUDA_MODULE_LOADING
    CUBLAS_WORKSPACE_CONFIG NVIDIA_TF32_OVERRIDE HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES
    PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF PYTORCH_HIP_ALLOC_CONF PYTORCH_ENABLE_MPS_FALLBACK PYTORCH_MPS_HIGH_WATERMARK_RATIO
    OMP_NUM_THREADS OMP_SCHEDULE OMP_DYNAMIC OMP_NESTED OMP_PROC_BIND OMP_PLACES OMP_STACKSIZE OMP_WAIT_POLICY OMP_THREAD_LIMIT
    OMP_MAX_ACTIVE_LEVELS OMP_MAX_TASK_PRIORITY OMP_CANCELLATION OMP_DISPLAY_ENV OMP_DISPLAY_AFFINITY OMP_AFFINITY_FORMAT
    OMP_DEFAULT_DEVICE OMP_TARGET_OFFLOAD OMP_NUM_TEAMS OMP_TEAMS_THREAD_LIMIT OMP_ALLOCATOR KMP_AFFINITY KMP_BLOCKTIME KMP_SETTINGS
    KMP_DUPLICATE_LIB_OK GOMP_CPU_AFFINITY GOMP_SPINCOUNT
    MKL_NUM_THREADS MKL_DOMAIN_NUM_THREADS MKL_DYNAMIC MKL_CBWR MKL_ENABLE_INSTRUCTIONS MKL_THREADING_LAYER MKL_INTERFACE_LAYER
    MKL_SERVICE_FORCE_INTEL MKL_DEBUG_CPU_TYPE MKL_VERBOSE MKL_NUM_STRIPES MKL_FAST_MEMORY_LIMIT MKL_DISABLE_FAST_MM
    OPENBLAS_NUM_THREADS GOTO_NUM_THREADS BLIS_NUM_THREADS VECLIB_MAXIMUM_THREADS NUMEXPR_NUM_THREADS NUMEXPR_MAX_THREADS
    RAYON_NUM_THREADS TOKENIZERS_PARALLELISM
    NCCL_DEBUG NCCL_DEBUG_SUBSYS NCCL_P2P_DISABLE NCCL_P2P_LEVEL NCCL_IB_DISABLE NCCL_IB_HCA NCCL_IB_TIMEOUT NCCL_SHM_DISABLE
    NCCL_SOCKET_IFNAME NCCL_ALGO NCCL_PROTO NCCL_BUFFSIZE NCCL_MIN_NCHANNELS NCCL_MAX_NCHANNELS NCCL_CUMEM_ENABLE NCCL_NVLS_ENABLE
    GLOO_SOCKET_IFNAME
    WANDB_MODE WANDB_PROJECT WANDB_ENTITY WANDB_NAME WANDB_NOTES WANDB_TAGS WANDB_RUN_GROUP WANDB_JOB_TYPE WANDB_RUN_ID WANDB_RESUME
    WANDB_SWEEP_ID WANDB_SILENT WANDB_QUIET WANDB_CONSOLE WANDB_DISABLED WANDB_DISABLE_CODE WANDB_DISABLE_GIT WANDB_LOG_MODEL
    WANDB_WATCH WANDB_ANONYMOUS WANDB_HTTP_TIMEOUT WANDB_INIT_TIMEOUT WANDB_START_METHOD WANDB_ERROR_REPORTING
    MLFLOW_TRACKING_URI MLFLOW_EXPERIMENT_NAME MLFLOW_EXPERIMENT_ID MLFLOW_RUN_NAME MLFLOW_RUN_ID MLFLOW_TAGS
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING MLFLOW_HTTP_REQUEST_TIMEOUT MLFLOW_HTTP_REQUEST_MAX_RETRIES
    HF_HUB_OFFLINE HF_DATASETS_OFFLINE TRANSFORMERS_OFFLINE HF_HUB_DISABLE_TELEMETRY HF_HUB_DISABLE_PROGRESS_BARS
    TRANSFORMERS_VERBOSITY TF_CPP_MIN_LOG_LEVEL TF_ENABLE_ONEDNN_OPTS HYDRA_FULL_ERROR NO_COLOR FORCE_COLOR COLUMNS TZ
    """.split()
)
_NEVER = ("MODELFACTORY_TRUST", "MODELFACTORY_TRUST_VARIABLES", "HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE")


def is_trusted(name: str) -> bool:
    """Whether a dotted name is that of a trusted package, or is below one.

    Example:
        >>> is_trusted("subprocess.run")
        False
    """
    return _below(name, trusted())


def check_callbacks(callbacks: Any, path: str, problems: Problems) -> None:
    """Adds a problem for each class that `hydra.callbacks` would make and that neither Hydra, nor this package, nor trust allows.

    Example:
        >>> problems = Problems()
        >>> check_callbacks({"x": {"_target_": "torch.load"}}, "hydra.callbacks", problems)
        >>> print(*problems)  # doctest: +ELLIPSIS
        hydra.callbacks.x._target_: 'torch.load' is refused: only ... may be named here
    """
    if callbacks is None:
        return
    if not isinstance(callbacks, Mapping):
        problems.add(path, f"{callbacks!r} is not a mapping of names to callbacks")
        return
    for name, callback in callbacks.items():
        where = join(path, str(name))
        target = callback.get("_target_") if isinstance(callback, Mapping) else None
        if isinstance(target, str) and target in CALLBACKS:
            for key in (key for key in callback if key != "_target_"):
                problems.add(join(where, str(key)), f"is refused: {target} takes no arguments")
        else:
            check_names(callback, where, problems, ("_target_",))


def check_names(value: Any, path: str, problems: Problems, keys: Iterable[str], depth: int = 0) -> None:
    """Adds a problem for each name of something to call, under any of `keys` at any depth, that is not trusted.

    Example:
        >>> problems = Problems()
        >>> check_names([{"a": {"_target_": "os.system"}}], "hydra.callbacks.x", problems, ["_target_"])
        >>> print(*problems)  # doctest: +ELLIPSIS
        hydra.callbacks.x.0.a._target_: 'os.system' is refused: only ... may be named here
    """
    if depth > MAX_DEPTH:
        problems.add(path, f"is refused: it is nested deeper than {MAX_DEPTH} levels, and what is not looked at cannot be allowed")
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            where = join(path, str(key))
            if key in keys and not isinstance(item, Mapping):
                resolve(item, where, problems, "object")
            else:
                check_names(item, where, problems, keys, depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_names(item, join(path, str(index)), problems, keys, depth + 1)


def check_plugin(plugin: Any, path: str, problems: Problems, folder: str | os.PathLike[str]) -> None:
    """Adds a problem for a launcher or sweeper that is not known, and for arguments of one that are commands or names of code.

    Args:
        folder: that of the sweep, below which a launcher writes.

    Example:
        >>> problems = Problems()
        >>> slurm = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
        >>> check_plugin({"_target_": slurm, "partition": "gpu", "setup": ["rm -r ."]}, "hydra.launcher", problems, ".")
        >>> print(*problems)
        hydra.launcher.setup: ['rm -r .'] is refused: it could run code; to allow it, say \
modelfactory.trust("hydra_plugins.hydra_submitit_launcher") in Python or set MODELFACTORY_TRUST=hydra_plugins.hydra_submitit_launcher
    """
    if plugin is None:
        return
    name = plugin.get("_target_") if isinstance(plugin, Mapping) else None
    if not isinstance(name, str):
        problems.add(path, f"{plugin!r} has no _target_ with the name of a plugin")
        return
    arguments = {key: value for key, value in plugin.items() if key != "_target_"}
    package = ".".join(name.split(".")[:2]) if name.startswith(_PLUGINS) else ""
    if is_trusted(name):
        check_names(arguments, path, problems, ("_target_",))
    elif name.startswith(_OURS):
        _check_arguments(arguments, path, "", ("*",), "", folder, problems)
    elif name in _ARGUMENTS:
        _check_arguments(arguments, path, "", tuple(_ARGUMENTS[name].split()), package, folder, problems)
    else:
        problems.add(join(path, "_target_"), f"{name!r} is refused: it is none of the plugins that are known{_allow(package)}")


def _check_arguments(
    value: Mapping[Any, Any], path: str, prefix: str, allowed: tuple[str, ...], package: str, folder: Any, problems: Problems
) -> None:
    """Checks arguments, those of mappings by dotted names, against the globs in `allowed`."""
    for key, item in value.items():
        name, where = f"{prefix}{key}", join(path, str(key))
        parts = item if isinstance(item, list) else [item]
        if str(key).startswith("_"):
            problems.add(where, f"{item!r} is refused: it could run code{_allow(package)}")
        elif item is None or item == {} or item == []:
            continue
        elif isinstance(item, Mapping) and name.count(".") < MAX_DEPTH:
            _check_arguments(item, where, f"{name}.", allowed, package, folder, problems)
        elif not any(fnmatchcase(name, glob) for glob in allowed):
            problems.add(where, f"{item!r} is refused: it could run code{_allow(package)}")
        elif not all(isinstance(part, (bool, int, float)) or _is_line(part) for part in parts):
            problems.add(where, f"{item!r} is refused: not a number nor a single line of text")
        elif name in _VALUES and not _VALUES[name].fullmatch(str(item)):
            problems.add(where, f"{item!r} is refused: it could run code{_allow(package)}")
        elif name == "submitit_folder":
            check_below(Path.cwd() / str(item), folder, where, problems, "the sweep's directory")


def check_variables(names: Iterable[str], path: str, problems: Problems) -> None:
    """Adds a problem for each environment variable that a config may not set: those that could name a program, a library or a file.

    Example:
        >>> problems = Problems()
        >>> check_variables(["OMP_NUM_THREADS", "CXX"], "hydra.job.env_set", problems)
        >>> print(*problems)
        hydra.job.env_set.CXX: is refused: it is none of the variables that a config may set, such as CUDA_VISIBLE_DEVICES, \
OMP_NUM_THREADS or WANDB_MODE; set it where the run is started
    """
    for name in names:
        if name in _NEVER:
            problems.add(join(path, name), "is refused: what is trusted is for Python and the environment to say")
        elif name not in _VARIABLES and not any(fnmatchcase(name, glob) for glob in trusted_variables()):
            what = "it is none of the variables that a config may set, such as CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS or WANDB_MODE"
            problems.add(join(path, name), f"is refused: {what}; set it where the run is started")


def check_search_path(entry: str, path: str, problems: Problems) -> None:
    """Adds a problem for an entry of `hydra.searchpath` that imports a module which is neither ours, nor Hydra's, nor trusted.

    Example:
        >>> problems = Problems()
        >>> check_search_path("pkg://modelfactory.conf", "hydra.searchpath", problems)
        >>> check_search_path("pkg://payload", "hydra.searchpath", problems)
        >>> print(*problems)
        hydra.searchpath: 'pkg://payload' is refused: reading configs of a package imports it; to allow it, say \
modelfactory.trust("payload") in Python or set MODELFACTORY_TRUST=payload
    """
    scheme, separator, rest = entry.partition("://")
    if not separator or scheme == "file":
        return
    module = rest.replace("/", ".").rstrip(".")  # as Hydra reads it
    known = re.fullmatch(r"\w+(\.\w+)*", module) is not None
    if scheme != "pkg" or not known:
        problems.add(path, f"{entry!r} is refused: give file:// and a folder, or pkg:// and a package")
    elif not _below(module, (*_SEARCHED, *trusted())):
        problems.add(path, f"{entry!r} is refused: reading configs of a package imports it{_allow(module.partition('.')[0])}")


def check_below(name: Any, folder: str | os.PathLike[str], path: str, problems: Problems, what: str = "the run directory") -> Path | None:
    """The whole path of a file or folder that must be in `folder` or below, links and `..` followed; None after saying why not.

    Example:
        >>> problems = Problems()
        >>> check_below("../../else", "/runs/1", "hydra.output_subdir", problems)
        >>> print(*problems)
        hydra.output_subdir: '../../else' is refused: it is not below the run directory, /runs/1
    """
    if not isinstance(name, (str, os.PathLike)) or not _is_line(str(name)):
        problems.add(path, f"{name!r} is refused: not a path of a single line")
        return None
    whole, top = Path(os.path.realpath(Path(folder, name))), Path(os.path.realpath(folder))
    if not whole.is_relative_to(top):
        problems.add(path, f"{str(name)!r} is refused: it is not below {what}, {folder}")
        return None
    return whole


def check_folder(name: Any, path: str, problems: Problems) -> bool:
    """Whether this can be a run's own directory, wherever it is; adds a problem where it would be more than a line in a script.

    Example:
        >>> check_folder("/anywhere/at all", "hydra.run.dir", Problems())
        True
    """
    fine = isinstance(name, (str, os.PathLike)) and _is_line(str(name))
    if not fine:
        problems.add(path, f"{name!r} is refused: not a path of a single line")
    return fine


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and not _CONTROL.search(value)


def _below(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _allow(package: str) -> str:
    if not package or package in sys.stdlib_module_names:
        return ""
    return f'; to allow it, say modelfactory.trust("{package}") in Python or set MODELFACTORY_TRUST={package}'
