"""Whether a long training leaks: memory and open files of `train.py` and all its processes, every second.

python benchmarks/soak.py [STEPS] [OPTIONS OF train.py]
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
OPTIONS = [
    *("model=fcn32s", "trainer=cpu", "trainer.max_epochs=-1", "trainer.log_every_n_steps=1", "logger=default"),
    *("datamodule.train_size=200", "datamodule.val_size=10", "datamodule.test_size=10", "datamodule.batch_size=2"),
    *("datamodule.crop_size=32", "datamodule.num_workers=2", "checkpoint_every_minutes=0.2"),
]


def family(root: int) -> list[int]:
    """A process and all that descend from it."""
    found = [root]
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def sample(root: int) -> tuple[float, int, int]:
    """Memory in MiB (shared pages by halves and so on: PSS), open files and processes."""
    memory = files = 0
    processes = family(root)
    for process in processes:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        memory += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        files += len(os.listdir(f"/proc/{process}/fd"))
    return memory / 1024, files, len(processes)


def main(steps: int, options: list[str]) -> None:
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(CHECKOUT / "train.py"), *OPTIONS, f"trainer.max_steps={steps}", *options]
        environment = os.environ | {"WANDB_MODE": "offline"}
        started = time.time()
        with subprocess.Popen([*command, f"hydra.run.dir={folder}"], env=environment) as process:
            while process.poll() is None:
                time.sleep(1)
                try:
                    samples.append(sample(process.pid))
                except (OSError, StopIteration):
                    continue  # a process ended meanwhile
        if process.returncode:
            sys.exit(process.returncode)
        seconds = time.time() - started
    middle = samples[len(samples) // 10 : -len(samples) // 20]  # without start and end
    quarters = [middle[index * len(middle) // 4 : (index + 1) * len(middle) // 4] for index in range(4)]
    print(f"{steps} steps in {seconds:.0f} s, {len(samples)} samples")
    print("| quarter | memory, MiB | open files | processes |")
    print("| --- | --- | --- | --- |")
    for number, quarter in enumerate(quarters, 1):
        memory, files, processes = (statistics.median(column) for column in zip(*quarter, strict=True))
        print(f"| {number} | {memory:.0f} | {files:.0f} | {processes:.0f} |")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:2] if word.isdigit()]
    main(numbers[0] if numbers else 3000, sys.argv[1 + len(numbers) :])
