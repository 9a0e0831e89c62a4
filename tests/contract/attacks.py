"""Attacks by a config that somebody else wrote, as data: words of a command line, files beside it, and where each must be refused.

`{here}` is the folder of the test; importing or calling anything of the module `payload` there leaves a file named `ran`. Words may
name `evil`, a config of that folder whose text is given. HELD is what the first version of this package refused already.
"""

from __future__ import annotations

from dataclasses import dataclass

PAYLOAD = "open({marker!r}, 'w').close()\ndef entry(*args, **kwargs): pass\nclass Thing:\n    def __init__(self, *args, **kwargs): pass\n"
TOUCH = "{class: subprocess.Popen, args: [touch, {here}/ran]}"
HUB = "{_target_: torch.hub.load, repo_or_dir: {here}, model: entry, source: local}"
CALLBACK, JOB, OWN, LAUNCHER, SWEEPER = (
    "hydra.callbacks.x",
    "hydra.job_logging",
    "hydra.hydra_logging",
    "hydra.launcher",
    "hydra.sweeper",
)
SWEEP = ("-m", "seed=3")
SLURM = (*SWEEP, "hydra/launcher=submitit_slurm")
LOCAL = (*SWEEP, "hydra/launcher=submitit_local")
JOBLIB = (*SWEEP, "hydra/launcher=joblib")
RAY = (*SWEEP, "hydra/launcher=ray_cluster")
OPTUNA = (*SWEEP, "hydra/sweeper=optuna")
FILE = "+hydra.job_logging.handlers.x={class: logging.FileHandler, filename: '%s'}"


@dataclass(frozen=True)
class Attack:
    """What is tried, and the config path at which it is refused."""

    words: tuple[str, ...]
    path: str
    evil: str = ""  # the text of evil.yaml, which is then the primary config

    @property
    def name(self) -> str:
        return " ".join(self.words)[:80] + (f" {self.evil[:80]!r}" if self.evil else "")


def attack(*words: str, at: str, evil: str = "") -> Attack:
    return Attack(words, at, evil)


def nested(value: str, levels: int) -> str:
    """A value below so many mappings."""
    return "{a: " * levels + value + "}" * levels


def primary(text: str) -> str:
    """A primary config that says this beside what every run has."""
    return f"defaults: [small, _self_]\n{text}\n"


def logged(section: str, entry: str, at: str = "()", node: str = JOB, words: tuple[str, ...] = (), more: str = "") -> Attack:
    """An entry of logging that a file says; keys such as `()` cannot be given on the command line."""
    text = f"hydra:\n  {node.removeprefix('hydra.')}:\n    {section}: {{x: {entry}}}{more}"
    return attack(*words, "-cn", "evil", evil=primary(text), at=f"{node}.{section}.x.{at}")


def swept(params: str, at: str) -> Attack:
    """What a sweeper adds to the overrides of each job."""
    return attack("-m", "seed=3", "-cn", "evil", evil=primary(f"hydra: {{sweeper: {{params: {{{params}}}}}}}"), at=at)


def callback(target: str, more: str = "") -> Attack:
    return attack(f"+{CALLBACK}={{_target_: {target}{more}}}", at=f"{CALLBACK}._target_")


HELD = [
    callback("payload.Thing"),
    callback("torch.load", ", f: payload.py"),
    callback("logging.torch.load"),
    callback("os.system", ", command: 'touch ran'"),
    callback("subprocess.run", ", args: [touch, ran]"),
    callback("builtins.eval"),
    callback("builtins.exec"),
    callback("importlib.import_module", ", name: payload"),
    callback("runpy.run_path", ", path_name: payload.py"),
    callback("pickle.load"),
    callback("functools.partial"),
    callback("hydra.utils.get_method", ", path: payload.entry"),
    callback("hydra.utils.instantiate"),
    callback("modelfactory.config.target.trust", ", _args_: [payload]"),
    callback("modelfactory.config.hydra_allowlist.os.system"),
    callback("torch.hub.load", ", repo_or_dir: '{here}', model: entry, source: local"),
    callback("omegaconf.OmegaConf.register_new_resolver"),
    attack(f"+{CALLBACK}={{_target_: modelfactory.cli.hydra_app.CheckBeforeRun, y: {{_target_: payload.Thing}}}}", at=f"{CALLBACK}.y"),
    attack("+z={_target_: payload.Thing}", f"+{CALLBACK}=${{z}}", at=f"{CALLBACK}._target_"),
    attack("+z=payload.Thing", f"+{CALLBACK}._target_=${{z}}", at=f"{CALLBACK}._target_"),
    attack(f"+{CALLBACK}={{_target_: payload.Thing, _partial_: true}}", at=f"{CALLBACK}._target_"),
    attack(f"+{CALLBACK}=[{{_target_: payload.Thing}}]", at=f"{CALLBACK}.0._target_"),
    logged("handlers", "{'()': payload.Thing}"),
    attack(f"+{JOB}.handlers.x={{class: payload.Thing}}", at=f"{JOB}.handlers.x.class"),
    logged("formatters", "{'()': payload.Thing}"),
    attack(f"+{JOB}.formatters.x={{class: payload.Thing}}", at=f"{JOB}.formatters.x.class"),
    logged("filters", "{'()': payload.Thing}"),
    attack(f"+{JOB}.handlers.x={{class: logging.StreamHandler, stream: 'ext://payload.Thing'}}", at=f"{JOB}.handlers.x.stream"),
    attack(f"+{OWN}.handlers.x={{class: payload.Thing}}", at=f"{OWN}.handlers.x.class"),
    logged("formatters", "{'()': payload.Thing}", node=OWN),
    attack("hydra.launcher._target_=payload.Thing", at=f"{LAUNCHER}._target_"),
    attack(*SWEEP, "+hydra.sweeper.x={_target_: payload.Thing}", at=f"{SWEEPER}.x._target_"),
    attack(*SWEEP, "+hydra.job.env_set.MODELFACTORY_TRUST=payload", at="hydra.job.env_set.MODELFACTORY_TRUST"),
    attack("+hydra.job.env_set.HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE=os", at="hydra.job.env_set.HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE"),
    attack("-cn", "evil", evil=primary("hydra: {callbacks: {x: {_target_: payload.Thing}}}"), at=f"{CALLBACK}._target_"),
]

DEEP = [
    attack(f"+{CALLBACK}={{_target_: hydra.experimental.callbacks.LogJobReturnCallback, e: {nested(HUB, 64)}}}", at=f"{CALLBACK}.e"),
    attack(f"+{CALLBACK}={{_target_: hydra.experimental.callbacks.LogJobReturnCallback, e: {nested(HUB, 2)}}}", at=f"{CALLBACK}.e"),
    attack(f"+{CALLBACK}={nested('{_target_: payload.Thing}', 70)}", at=CALLBACK + ".a" * 51),
    attack(
        f"+{CALLBACK}={{_target_: trusted_here.Thing, deep: {nested('{_target_: payload.Thing}', 60)}}}", at=f"{CALLBACK}.deep" + ".a" * 50
    ),
    attack(f"+{CALLBACK}={{_target_: trusted_here.Thing, inner: [{{_target_: payload.Thing}}]}}", at=f"{CALLBACK}.inner.0._target_"),
    attack(f"+{CALLBACK}={{_target_: trusted_here.system}}", at=f"{CALLBACK}._target_"),
    attack(f"+{CALLBACK}={{_target_: [payload.Thing]}}", at=f"{CALLBACK}._target_"),
    attack(f"+{CALLBACK}={{_target_: logging.FileHandler, filename: '{{here}}/else.log', mode: w}}", at=f"{CALLBACK}._target_"),
    attack(f"+{CALLBACK}={{_target_: logging.FileHandler, _args_: ['{{here}}/else.log', w]}}", at=f"{CALLBACK}._target_"),
    attack(*SWEEP, f"+{LAUNCHER}.x={nested('{_target_: payload.Thing}', 60)}", at=f"{LAUNCHER}.x" + ".a" * 50),
    attack(f"+{JOB}.handlers.x={{class: logging.StreamHandler, y: {nested('{class: payload.Thing}', 60)}}}", at=f"{JOB}.handlers.x.y"),
    attack(f"+{JOB}.extra={nested('{class: payload.Thing}', 60)}", at=f"{JOB}.extra" + ".a" * 50),
]

# What does not resolve when it is looked at, or resolves to something else later
LATE = [
    attack(f"+{CALLBACK}._target_=${{oc.env:NOT_SET_HERE}}", at=f"{CALLBACK}._target_"),
    attack(
        f"+{CALLBACK}._target_=${{hydra:job.env_set.WANDB_NAME}}", "+hydra.job.env_set.WANDB_NAME=payload.Thing", at=f"{CALLBACK}._target_"
    ),
    attack("-cn", "evil", evil=primary("hydra: {callbacks: {x: \"${oc.decode:'{_target_: payload.Thing}'}\"}}"), at=f"{CALLBACK}._target_"),
    attack("-cn", "evil", evil=primary("hydra: {callbacks: {x: '${oc.create:{_target_: payload.Thing}}'}}"), at=f"{CALLBACK}._target_"),
    attack("+z=payload.Thing", f"+{CALLBACK}._target_=${{oc.select:z}}", at=f"{CALLBACK}._target_"),
    attack(f"+{CALLBACK}=${{.x}}", at=CALLBACK),
    logged("formatters", "{'()': '${hydra:job.name}'}", words=("hydra.job.name=payload.Thing",)),
    attack(
        "-cn",
        "evil",
        evil=primary(
            "hydra:\n  job: {env_set: {WANDB_NAME: torch.hub.load}}\n  job_logging:\n    formatters:\n      x: {'()': "
            "'${hydra:job.env_set.WANDB_NAME}', repo_or_dir: {here}, model: entry, source: local}"
        ),
        at=f"{JOB}.formatters.x.()",
    ),
    attack(
        f"+{JOB}.handlers.x='${{oc.decode:${{oc.env:WANDB_NOTES}}}}'", f"+hydra.job.env_set.WANDB_NOTES='{TOUCH}'", at=f"{JOB}.handlers.x"
    ),
    attack(
        *SWEEP,
        f"+{JOB}.handlers.x='${{oc.decode:${{oc.env:WANDB_NOTES}}}}'",
        f"+hydra.job.env_set.WANDB_NOTES='{TOUCH}'",
        at=f"{JOB}.handlers.x",
    ),
    attack(
        *SWEEP, "hydra.sweep.subdir=payload.Thing", f"+{JOB}.handlers.x={{class: '${{hydra:sweep.subdir}}'}}", at=f"{JOB}.handlers.x.class"
    ),
    attack(*SWEEP, f"+{JOB}.handlers.x={{class: '${{hydra:job.id}}'}}", at=f"{JOB}.handlers.x.class"),
    logged("formatters", "{'()': '${hydra:job.name}'}", node=OWN, words=(*SWEEP, "hydra.job.name=payload.Thing")),
    attack(r"+hydra.job_logging.handlers.x={class: '\${z}'}", "+z=payload.Thing", at=f"{JOB}.handlers.x.class"),
    attack(
        "-cn",
        "evil",
        evil=primary("hydra: {job_logging: '${z}'}\nz: {version: 1, handlers: {x: {class: payload.Thing}}}"),
        at=f"{JOB}.handlers.x.class",
    ),
    attack("-cn", "evil", evil=primary("hydra: {callbacks: '${z}'}\nz: {x: {_target_: payload.Thing}}"), at=f"{CALLBACK}._target_"),
    attack(
        "-cn",
        "evil",
        evil=primary("x-base: &base {class: payload.Thing}\nhydra: {job_logging: {handlers: {x: {<<: *base}}}}"),
        at=f"{JOB}.handlers.x.class",
    ),
    attack("+hydra.job.chdir=${oc.env:NOT_SET_HERE}", at="hydra.job.chdir"),
    attack("hydra.run.dir=${oc.env:NOT_SET_HERE}", at="hydra.run.dir"),
]

LOGGING = [
    logged("handlers", "{'()': subprocess.Popen, args: [touch, '{here}/ran']}"),
    logged("handlers", "{class: logging.StreamHandler, '()': payload.Thing}"),
    logged("handlers", "{class: payload.Thing, '()': logging.StreamHandler}", at="class"),
    attack(
        f"+{JOB}.handlers.x={{class: logging.StreamHandler, stream: 'cfg://note'}}",
        f"+{JOB}.note=payload.Thing",
        at=f"{JOB}.handlers.x.stream",
    ),
    logged("handlers", "{'()': 'cfg://note'}", more="\n    note: payload.Thing"),
    attack(f"+{JOB}.handlers.x={{class: logging.StreamHandler, factory: payload.Thing}}", at=f"{JOB}.handlers.x.factory"),
    logged("handlers", "{class: logging.FileHandler, filename: run/x.log, delay: true, '.': {baseFilename: '{here}/else.log'}}", at="."),
    logged("formatters", "{format: '%(message)s', '.': {_style: payload.Thing}}", at="."),
    attack(f"+{JOB}.handlers.x={{class: logging.handlers.QueueHandler, queue: payload.Thing}}", at=f"{JOB}.handlers.x.queue"),
    attack(f"+{JOB}.handlers.x={{class: logging.handlers.QueueHandler, listener: payload.Thing}}", at=f"{JOB}.handlers.x.listener"),
    logged("handlers", "{class: logging.handlers.QueueHandler, queue: {'()': payload.Thing}}", at="queue.()"),
    attack(f"+{JOB}.handlers.x={{class: trusted_here.Handler, queue: payload.Thing}}", at=f"{JOB}.handlers.x.queue"),
    attack(f"+{JOB}.handlers.x={{class: trusted_here.Handler, y: 'ext://payload.Thing'}}", at=f"{JOB}.handlers.x.y"),
    attack(f"+{JOB}.handlers.x={{class: trusted_here.Handler, filename: '{{here}}/else.log'}}", at=f"{JOB}.handlers.x.filename"),
    attack(f"+{JOB}.handlers.x={{class: logging.handlers.SocketHandler, host: localhost, port: 1}}", at=f"{JOB}.handlers.x.class"),
    attack(f"+{JOB}.handlers.x={{class: logging.handlers.SMTPHandler, mailhost: x}}", at=f"{JOB}.handlers.x.class"),
    attack(f"+{JOB}.handlers.x={{class: logging.handlers.HTTPHandler, host: x, url: y}}", at=f"{JOB}.handlers.x.class"),
    attack(f"+{JOB}.handlers.x={{class: logging.handlers.MemoryHandler, capacity: 1, target: x}}", at=f"{JOB}.handlers.x.class"),
    attack(f"+{JOB}.handlers.x={{class: logging.config.dictConfig, config: {{}}}}", at=f"{JOB}.handlers.x.class"),
    attack(f"+{JOB}.handlers.x={{class: logging.os.system}}", at=f"{JOB}.handlers.x.class"),
    logged("handlers", "{class: null, '()': [payload.Thing]}"),
    logged("formatters", "{'()': logging.FileHandler, filename: '{here}/else.log'}"),
    logged("filters", "{'()': logging.FileHandler, filename: '{here}/else.log'}"),
    attack(f"+{JOB}.formatters.x={{format: '{{message.__class__}}', style: '{{'}}", at=f"{JOB}.formatters.x.style"),
    attack(f"{JOB}.root.handlers=['ext://payload.Thing']", at=f"{JOB}.root.handlers.0"),
    attack(f"+{JOB}.loggers.x.filters=['ext://payload.Thing']", at=f"{JOB}.loggers.x.filters.0"),
    attack(f"+{JOB}.handlers.x='cfg://note'", f"+{JOB}.note={{class: payload.Thing}}", at=f"{JOB}.handlers.x"),
    attack(f"{JOB}.handlers=null", f"+{JOB}.note={{class: payload.Thing}}", at=f"{JOB}.note.class"),
    attack(*SWEEP, f"+{JOB}.handlers.x={{class: payload.Thing}}", at=f"{JOB}.handlers.x.class"),
    attack(*SWEEP, "sweep.isolate=false", f"+{JOB}.formatters.x={{class: payload.Thing}}", at=f"{JOB}.formatters.x.class"),
    attack(*JOBLIB, f"+{JOB}.handlers.x={{class: payload.Thing}}", at=f"{JOB}.handlers.x.class"),
    attack(*SWEEP, f"+{OWN}.handlers.x={{class: payload.Thing}}", at=f"{OWN}.handlers.x.class"),
    attack("--help", f"+{OWN}.handlers.x={{class: payload.Thing}}", at=f"{OWN}.handlers.x.class"),
    attack("--hydra-help", f"+{OWN}.handlers.x={{class: payload.Thing}}", at=f"{OWN}.handlers.x.class"),
]

# Launchers and sweepers are installed, but what they are told may be commands, code or another's machine
PLUGINS = [
    attack(*JOBLIB, "hydra.launcher.pre_dispatch=\"__import__('payload')\"", at=f"{LAUNCHER}.pre_dispatch"),
    attack(*JOBLIB, "+hydra.launcher.initializer={_target_: payload.Thing}", at=f"{LAUNCHER}.initializer._target_"),
    attack(*JOBLIB, "+hydra.launcher._recursive_=true", at=f"{LAUNCHER}._recursive_"),
    attack(*LOCAL, "+hydra.launcher.setup=['touch {here}/ran']", at=f"{LAUNCHER}.setup"),
    attack(*LOCAL, "+hydra.launcher.python='touch {here}/ran'", at=f"{LAUNCHER}.python"),
    attack(*LOCAL, "hydra.launcher.submitit_folder={here}/else", "hydra.sweep.dir=sweep", at=f"{LAUNCHER}.submitit_folder"),
    attack(*LOCAL, "hydra.launcher.submitit_folder=sweep/../else", "hydra.sweep.dir=sweep", at=f"{LAUNCHER}.submitit_folder"),
    attack(*SLURM, "hydra.launcher.setup=['touch {here}/ran']", at=f"{LAUNCHER}.setup"),
    attack(*SLURM, "+hydra.launcher.teardown=['touch {here}/ran']", at=f"{LAUNCHER}.teardown"),
    attack(*SLURM, "+hydra.launcher.srun_args=['--task-prolog=x']", at=f"{LAUNCHER}.srun_args"),
    attack(*SLURM, "+hydra.launcher.additional_parameters.export=LD_PRELOAD", at=f"{LAUNCHER}.additional_parameters.export"),
    attack(*SLURM, 'hydra.launcher.partition="gpu\ntouch {here}/ran #"', at=f"{LAUNCHER}.partition"),
    attack(*SLURM, 'hydra.launcher.name="x\ntouch {here}/ran #"', at=f"{LAUNCHER}.name"),
    attack(*SLURM, 'hydra.sweep.dir="x\ntouch {here}/ran #"', at="hydra.sweep.dir"),
    attack(
        *RAY,
        "+hydra.launcher.ray.init.runtime_env={py_executable: 'touch {here}/ran'}",
        at=f"{LAUNCHER}.ray.init.runtime_env.py_executable",
    ),
    attack(*RAY, "hydra.launcher.ray.init.address='ray://evil:10001'", at=f"{LAUNCHER}.ray.init.address"),
    attack(*SWEEP, "hydra.launcher._target_=hydra_plugins.hydra_other.Launcher", "+hydra.launcher.command=x", at=f"{LAUNCHER}._target_"),
    attack(
        *SWEEP,
        "hydra.sweeper._target_=hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
        "+hydra.sweeper.custom_search_space=payload.entry",
        at=f"{SWEEPER}._target_",
    ),
    attack(*SWEEP, "+z={_target_: payload.Thing}", "hydra.launcher=${z}", at=f"{LAUNCHER}._target_"),
    attack(*OPTUNA, "+hydra.sweeper.storage={_target_: payload.Thing}", at=f"{SWEEPER}.storage._target_"),
    swept("_target_: payload.Thing", at=f"{SWEEPER}.params._target_"),
    swept("'+hydra.job_logging.handlers.y': '{class: payload.Thing}'", at=f"{JOB}.handlers.y.class"),
    swept("'hydra.sweep.subdir': '../else'", at="hydra.sweep.subdir"),
]

VARIABLES = [
    attack(f"+hydra.job.env_set.{name}=x", at=f"hydra.job.env_set.{name}")
    for name in (
        "CXX CC PATH LD_PRELOAD LD_LIBRARY_PATH DYLD_INSERT_LIBRARIES PYTHONPATH PYTHONSTARTUP PYTHONBREAKPOINT PYTHONWARNINGS "
        "TORCHINDUCTOR_CACHE_DIR TORCH_HOME TORCH_EXTENSIONS_DIR TORCH_LOGS_OUT TRITON_CACHE_DIR TRITON_PTXAS_PATH CUDA_HOME "
        "CUDA_INJECTION64_PATH NCCL_NET_PLUGIN OMP_TOOL_LIBRARIES OMP_TOOL_VERBOSE_INIT MKL_VERBOSE_OUTPUT_FILE WANDB__EXECUTABLE "
        "WANDB_X_EXECUTABLE WANDB_BASE_URL WANDB_DIR MLFLOW_CONDA_CREATE_ENV_CMD MPLBACKEND MPLCONFIGDIR BASH_ENV ENV EDITOR BROWSER "
        "GIT_SSH_COMMAND HOME TMPDIR HTTPS_PROXY MASTER_ADDR RAY_ADDRESS JOBLIB_TEMP_FOLDER MODELFACTORY_TRUST_VARIABLES path"
    ).split()
] + [
    attack(*SWEEP, "+hydra.job.env_set.CXX=x", at="hydra.job.env_set.CXX"),
    attack("hydra.job.env_copy=[PATH]", at="hydra.job.env_set.PATH"),
    attack("+z={CXX: x}", "hydra.job.env_set=${z}", at="hydra.job.env_set.CXX"),
    swept("'+hydra.job.env_set.CXX': x", at="hydra.job.env_set.CXX"),
]

SEARCH_PATHS = [
    attack(f"hydra.searchpath=[{entry}]", at="hydra.searchpath")
    for entry in (
        "pkg://payload",
        "pkg://payload/conf",
        "pkg://trusted_here_not",
        "pkg://modelfactoryx",
        "pkg://modelfactory/../payload",
        "pkg://.payload",
        "pkg://",
        "structured://payload",
        "pkg://modelfactory.conf,pkg://payload",
        "s3://payload",
        "' pkg://payload'",
    )
] + [
    attack(*SWEEP, "hydra.searchpath=[pkg://payload]", at="hydra.searchpath"),
    attack("--cfg", "job", "hydra.searchpath=[pkg://payload]", at="hydra.searchpath"),
    attack("--info", "searchpath", "hydra.searchpath=[pkg://payload]", at="hydra.searchpath"),
    attack("--help", "hydra.searchpath=[structured://payload]", at="hydra.searchpath"),
    attack("-cn", "evil", evil=primary("hydra: {searchpath: ['pkg://payload']}"), at="hydra.searchpath"),
    attack("-cn", "evil", evil=primary("hydra: {searchpath: ['structured://payload']}"), at="hydra.searchpath"),
    attack("-cn", "evil", evil=primary("z: 'pkg://payload'\nhydra: {searchpath: ['${z}']}"), at="hydra.searchpath"),
    attack("-cn", "evil", evil=primary("hydra: {searchpath: ['pkg://${oc.env:PAYLOAD}']}"), at="hydra.searchpath"),
    attack(
        "-m",
        "-cn",
        "evil",
        "seed=3",
        evil=primary("hydra: {overrides: {hydra: ['hydra.searchpath=[pkg://payload]']}}"),
        at="hydra.searchpath",
    ),
    swept("'hydra.searchpath': '[pkg://payload]'", at="hydra.searchpath"),
]

PLACES = [
    attack(FILE % "{here}/else.log", at=f"{JOB}.handlers.x.filename"),
    attack(FILE % "../else.log", at=f"{JOB}.handlers.x.filename"),
    attack(f"+{OWN}.handlers.x={{class: logging.FileHandler, filename: else.log}}", at=f"{OWN}.handlers.x.filename"),
    attack(FILE % "${hydra.runtime.output_dir}/../else.log", at=f"{JOB}.handlers.x.filename"),
    attack(FILE % "${hydra.runtime.output_dir}/out/else.log", at=f"{JOB}.handlers.x.filename"),
    attack(FILE % "${hydra.runtime.output_dir}/.bashrc", at=f"{JOB}.handlers.x.filename"),
    attack(FILE % "${hydra.runtime.output_dir}/.ssh/x.log", at=f"{JOB}.handlers.x.filename"),
    attack(FILE % "${hydra.runtime.output_dir}/start.py", at=f"{JOB}.handlers.x.filename"),
    attack(FILE % "${hydra.runtime.output_dir}/authorized_keys", at=f"{JOB}.handlers.x.filename"),
    attack(FILE % "/dev/shm/else.log", at=f"{JOB}.handlers.x.filename"),
    attack(FILE % "${oc.env:HERE}/else.log", at=f"{JOB}.handlers.x.filename"),
    attack(
        f"+{JOB}.handlers.x={{class: logging.handlers.RotatingFileHandler, filename: '{{here}}/else.log'}}", at=f"{JOB}.handlers.x.filename"
    ),
    logged("handlers", "{'()': logging.handlers.TimedRotatingFileHandler, filename: '{here}/else.log'}", at="filename"),
    attack(f"+{OWN}.handlers.x={{class: logging.FileHandler, filename: '{{here}}/else.log'}}", at=f"{OWN}.handlers.x.filename"),
    attack("hydra.job.name=../else", at=f"{JOB}.handlers.file.filename"),
    attack(*SWEEP, FILE % "{here}/else.log", at=f"{JOB}.handlers.x.filename"),
    attack(*SWEEP, FILE % "${hydra.sweep.dir}/../else.log", at=f"{JOB}.handlers.x.filename"),
    attack("hydra.output_subdir=../../else", at="hydra.output_subdir"),
    attack("hydra.output_subdir={here}/else", at="hydra.output_subdir"),
    attack("hydra.output_subdir=out", at="hydra.output_subdir"),
    attack("hydra.output_subdir=out/else", at="hydra.output_subdir"),
    attack("hydra.output_subdir=${oc.env:HERE}/else", at="hydra.output_subdir"),
    attack(*SWEEP, "hydra.output_subdir=../../../else", at="hydra.output_subdir"),
    attack(*SWEEP, "hydra.sweep.subdir=../else", at="hydra.sweep.subdir"),
    attack(*SWEEP, "hydra.sweep.subdir={here}/else", at="hydra.sweep.subdir"),
    attack(*SWEEP, "hydra.sweep.subdir=out", at="hydra.sweep.subdir"),
    attack(*SWEEP, "hydra.sweep.subdir=${hydra.job.override_dirname}", "+resume=../../../../else", at="hydra.sweep.subdir"),
    attack("--experimental-rerun", "{here}/evil.pickle", at="--experimental-rerun"),
    attack("--exp={here}/evil.pickle", at="--experimental-rerun"),
]

NEIGHBOURS = [*DEEP, *LATE, *LOGGING, *PLUGINS, *VARIABLES, *SEARCH_PATHS, *PLACES]
