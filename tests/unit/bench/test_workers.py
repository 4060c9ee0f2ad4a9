"""Worker processes of the benchmark."""

import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import multiprocessing, os, signal, time
from adapterdistill.bench.transfer.workers import end_with_parent

def work(ready):
    end_with_parent()
    ready.set()
    time.sleep(120)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=work, args=(ready,))
    child.start()
    ready.wait()
    print(child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT)
    # Not through a pipe: the orphan would hold it open.
    with (tmp_path / "out").open("w+") as out:
        subprocess.run([sys.executable, str(script)], stdout=out, check=False, timeout=110)
        out.seek(0)
        child = Path("/proc") / out.read().strip()
    for _ in range(100):
        try:
            if ") Z " in (child / "stat").read_text():
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.1)
    raise AssertionError("the worker lives on")
