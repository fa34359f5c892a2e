"""The SLURM recipes, run by bash with a stub scheduler that writes down what it is asked."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RECIPE = EXAMPLES / "cluster.sbatch"
ARRAY_RECIPE = EXAMPLES / "array.sbatch"
STUBS = {
    "scontrol": 'echo "scontrol $*" >>"$CALLS"; printf "%s\\n" one two three',
    "srun": "while [[ $1 == --* ]]; do\n"
    '[[ $1 == --nodelist=* ]] && export ON="${1#*=}"; shift; done\nexec "$@"',
    "hostname": 'echo "127.0.0.1 10.0.0.1"',
    "ray": 'echo "ray $* on $ON" >>"$CALLS"\n'
    'trap \'echo "ended on $ON" >>"$CALLS"; kill $!; exit\' TERM\n'
    'if [[ " $* " == *" --head "* ]]; then "$PYTHON" -c "$LISTEN" & else sleep 60 & fi\nwait',
    "cuvee": 'echo "cuvee $*" >>"$CALLS"; sleep 1; exit "${STATUS:-0}"',
}
LISTEN = (
    "import os, socket, time\n"
    "server = socket.create_server(('127.0.0.1', int(os.environ['RAY_PORT'])))\n"
    "time.sleep(60)"
)

ARRAY_STUBS = {
    # Runs each job at once from a copy, as SLURM does, and an array's tasks side by side.
    "sbatch": 'cp "$ARRAY_RECIPE" "$SPOOL"; job=$((100 + $(wc -l <"$CALLS")))\n'
    'echo "sbatch $*" >>"$CALLS"; tasks=x\n'
    "while [[ $1 == --* ]]; do\n"
    '[[ $1 == --array=* ]] && tasks=$(seq "${1#--array=1-}"); shift; done\n'
    "for task in $tasks; do SLURM_ARRAY_TASK_ID=$task SLURM_CPUS_PER_TASK=8 "
    'bash "$SPOOL" "${@:2}" >/dev/null & done; wait; echo "$job;here"',
    "cuvee": 'said=$(printf "%s|" cuvee "$@"); echo "$said" >>"$CALLS"',
}


def free_port() -> int:
    """Find a port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("status", [0, 3])
def test_the_recipe_starts_ray_everywhere_and_ends_it(tmp_path: Path, status: int) -> None:
    """The head first, then the others at its address, then the command; its status is kept."""
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    calls, port = tmp_path / "calls", free_port()
    done = subprocess.run(
        ["bash", str(RECIPE), "run", "regmix", "my config.yaml", "--out", "x"],
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "STATUS": str(status),
            "PYTHON": sys.executable,
            "LISTEN": LISTEN,
            "RAY_PORT": str(port),
            "SLURM_CPUS_PER_TASK": "8",
            "SLURM_JOB_NODELIST": "node[1-3]",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, "")
    said = calls.read_text(encoding="utf-8").splitlines()
    assert said[0] == "scontrol show hostnames node[1-3]"
    assert said[1].startswith(f"ray start --head --block --node-ip-address=127.0.0.1 --port={port}")
    assert said[1].endswith("on one")
    others = f"ray start --block --address=127.0.0.1:{port} --num-cpus=8 --num-gpus=0 on two,three"
    command = (
        f"cuvee run regmix my config.yaml --out x --executor ray:127.0.0.1:{port} --workers 24"
    )
    assert sorted(said[2:4]) == sorted([others, command])
    assert sorted(said[4:]) == ["ended on one", "ended on two,three"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_array_recipe_prepares_trains_and_finishes(tmp_path: Path) -> None:
    """Three jobs, each after the one before; the array's tasks have a part each."""
    for name, text in ARRAY_STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    arguments = ["my config.yaml", "--out", "x"]
    done = subprocess.run(
        ["bash", str(ARRAY_RECIPE), "regmix", *arguments],
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "ARRAY_RECIPE": str(ARRAY_RECIPE),
            "CALLS": str(calls),
            "PARTS": "3",
            "SPOOL": str(tmp_path / "slurm_script"),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "prepare 100, train 102 (1 to 3), finish 106\n"
    said = calls.read_text(encoding="utf-8").splitlines()
    submit, given = "sbatch --parsable --kill-on-invalid-dep=yes", "|".join(arguments)
    train = f"cuvee|train|{given}|--method|regmix"
    assert said[0] == f"{submit} {ARRAY_RECIPE} @prepare regmix {' '.join(arguments)}"
    assert said[1] == f"{train}|--prepare|--workers|8|"
    assert said[2].startswith(
        f"{submit} --dependency=afterok:100 --array=1-3 {ARRAY_RECIPE} @part 3 "
    )
    parts = [f"{train}|--part|{number}/3|--workers|8|" for number in (1, 2, 3)]
    assert sorted(said[3:6]) == parts
    assert said[6].startswith(f"{submit} --dependency=afterok:102 {ARRAY_RECIPE} @finish regmix ")
    assert said[7:] == [f"cuvee|run|regmix|{given}|--workers|8|"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_array_recipe_says_how_it_is_called() -> None:
    """Without a method nothing is handed in."""
    done = subprocess.run(
        ["bash", str(ARRAY_RECIPE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"usage: PARTS=16 bash {ARRAY_RECIPE} METHOD CONFIG --out DIR\n"
