"""The parts of Slurm's commands that submitit uses, on this machine and at once: called as sbatch, srun or sacct."""

import os
import re
import subprocess
import sys
from pathlib import Path

JOB, name = "77", Path(sys.argv[0]).name
if name == "sbatch":
    text = Path(sys.argv[-1]).read_text()
    assert "#SBATCH --partition=gpu" in text
    (last,) = re.findall(r"--array=0-(\d+)", text)
    for task in range(int(last) + 1):
        where = {"ARRAY_JOB_ID": JOB, "ARRAY_TASK_ID": str(task), "JOB_ID": str(100 + task), "JOB_NODELIST": "here", "NTASKS": "1"}
        place = {"PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_NUM_NODES": "1"}
        variables = {**os.environ, **{f"SLURM_{key}": value for key, value in (where | place).items()}}
        subprocess.Popen(["bash", sys.argv[-1]], env=variables, stdin=-3, stdout=-3, stderr=-3, start_new_session=True)
    print(f"Submitted batch job {JOB}")
elif name == "srun":
    command = sys.argv[sys.argv.index(sys.executable) :]
    sys.exit(subprocess.run(command).returncode)
elif name == "sacct":
    print("JobID|State|NodeList", *(f"{JOB}_{task}|RUNNING|here" for task in range(3)), sep="\n")
