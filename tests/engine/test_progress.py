"""What a training shows on a terminal, and what it says to do next."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import run_typed

pytestmark = pytest.mark.usefixtures("narrow")

TINY = [
    *(
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=2",
        "datamodule.num_workers=0",
        "trainer.log_every_n_steps=1",
        "logger=csv",
    ),
    *("datamodule.train_size=8", "datamodule.val_size=2", "datamodule.test_size=2", "datamodule.batch_size=2"),
    *("datamodule.crop_size=64", "hydra.run.dir=a run", "+trainer.enable_progress_bar=true"),
]


def test_a_training_shows_its_progress_and_says_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich then takes what it writes to for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    assert run_typed(tmp_path, "train.py", *TINY) == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    bars = [line for line in re.split(r"[\r\n]", shown) if line.startswith("Epoch 1/1")]
    assert re.search(r"4/4 left: 0:00:0\d loss: \d\.\d{3} mIoU: 0\.\d{3} images/s: \d", bars[-1])
    # Lines of the log are whole, above the bar.
    assert len(re.findall(r"[\r\n]epoch [12] step [48]: train/loss [^\r\n]* images/s\)\n", shown)) == 2

    said = shown.partition("next:\n")[2].splitlines()
    evaluate, predict, compare = (shlex.split(line) for line in said[:3])
    assert (tmp_path / re.search(r"truth are in (.*\.png)", shown)[1]).is_file()  # type: ignore[index]
    assert evaluate == ["segrefine", "evaluate", "checkpoint=a run/checkpoints/best.ckpt", *evaluate[3:]]
    assert run_typed(tmp_path, *evaluate, "trainer=cpu", "trainer.precision=32-true", "hydra.run.dir=b") == 0
    assert predict[2] == evaluate[2]
    filled = [word.replace("ANOTHER_RUN", "b").replace("FOLDER", "c") for word in compare]
    assert run_typed(tmp_path, *filled) == 0
