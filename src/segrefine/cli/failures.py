"""Faults of the machine in words: a full disk, memory that ran out, a worker that was killed, and what to do."""

import errno
from collections.abc import Iterator
from typing import NamedTuple

from segrefine.core.errors import UserError
from segrefine.runs.folder import RunFolder

RESUME = f"The run's {RunFolder.LAST}, if there is one, is whole: ckpt_path=last resumes from it."

_SPACE = f"Free space there, or write elsewhere (hydra.run.dir=FOLDER; predict.py: output=FOLDER). {RESUME}"
_PLACE = "Give a folder that may be written to: hydra.run.dir=FOLDER (predict.py: output=FOLDER)."
_FILES = (
    "Raise the limit (ulimit -n 65536) or take fewer reading processes (datamodule.num_workers=0: none), which pass "
    "every tensor as an open file."
)
_SHARED = (
    "Enlarge /dev/shm (docker run --shm-size=8g), through which the reading processes pass images, or set "
    "datamodule.num_workers=0."
)
_WORKER = (
    "Most often the system ended it for want of memory: set a smaller datamodule.num_workers or datamodule.batch_size."
)
_MEMORY = "Set a smaller datamodule.batch_size (or eval_batch_size) or datamodule.crop_size, or fewer num_workers."
_GPU = (
    "Set a smaller datamodule.batch_size (eval_batch_size where it scores) or datamodule.crop_size; for large images "
    "evaluate.py and predict.py take window=512. nvidia-smi shows what else uses the GPU."
)


class _Fault(NamedTuple):
    """What happened and what to do; known by the number of an OSError or by words in any error's message."""

    what: str
    remedy: str
    numbers: tuple[int, ...] = ()
    words: tuple[str, ...] = ()


# The first that fits is told. Shared memory comes first: where it is full there is "no space left on device" too, and a
# worker without it dies like any other.
# The words are those of PyTorch 2 (aten/src/ATen/MapAllocator.cpp, torch/utils/data/_utils/signal_handling.py,
# caffe2/serialize/inline_container.cc, c10/core/impl/alloc_cpu.cpp) and of the C library.
_FAULTS = (
    _Fault("The shared memory is full", _SHARED, (), ("shared memory", "file </torch_", "/dev/shm")),
    _Fault("The disk is full", _SPACE, (errno.ENOSPC,), ("No space left on device",)),
    _Fault("The disk quota is used up", _SPACE, (errno.EDQUOT,), ("Disk quota exceeded",)),
    _Fault("A file grew beyond the limit (ulimit -f)", _SPACE, (errno.EFBIG,), ("File too large",)),
    _Fault("Too many files are open", _FILES, (errno.EMFILE, errno.ENFILE), ("Too many open files", "of ancdata")),
    _Fault(
        "The GPU's memory ran out", _GPU, (), ("CUDA out of memory", "out of memory. Tried", "_STATUS_ALLOC_FAILED")
    ),
    _Fault("The GPU's memory ran out", _GPU, (), ("CUDA error: out of memory", "MPS backend out of memory")),
    _Fault(
        "The memory ran out",
        _MEMORY,
        (errno.ENOMEM,),
        ("DefaultCPUAllocator: ", "Cannot allocate memory", "Unable to allocate "),
    ),
    _Fault("A process that reads data died", _WORKER, (), ("DataLoader worker (pid",)),
    _Fault(
        "A checkpoint could not be written, most likely for a full disk",
        _SPACE,
        (),
        ("PytorchStreamWriter failed", "unexpected pos ", "iostream error"),
    ),
    _Fault(
        "A file or folder cannot be written",
        _PLACE,
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
        ("Permission denied", "Read-only file system"),
    ),
    _Fault("The disk, or the way to it, failed", f"Look at it, then start again. {RESUME}", (errno.EIO, errno.ESTALE)),
)


def explain_failure(error: BaseException) -> UserError | None:
    """The fault of the machine behind an error, in one message, or None: looked for in the error and in those that it
    followed from."""
    for link in _chain(error):
        for fault in _FAULTS:
            if _fits(fault, link):
                return UserError(f"{fault.what} ({_last_line(link)}). {fault.remedy}")
        if isinstance(link, MemoryError):
            return UserError(f"The memory ran out. {_MEMORY}")
    return None


def _fits(fault: _Fault, error: BaseException) -> bool:
    """An OSError is judged by its number, if it has one: a data loader's worker sends nothing but its words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in fault.numbers
    return isinstance(error, (OSError, RuntimeError, MemoryError)) and any(word in str(error) for word in fault.words)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, the one that it was raised from or while that was handled, and so on."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _last_line(error: BaseException) -> str:
    """The error in one line: of a worker's, which comes with its traceback, the end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return (lines[-1] if lines[0].startswith("Caught ") else lines[0]).rstrip(".")
