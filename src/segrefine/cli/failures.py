"""Explain failures of the machine in one message, and what to do: full disk, memory exhausted, too many open files.

Also what PyTorch cannot do on a device with the options given.
"""

import errno
from collections.abc import Iterator

from segrefine.core.errors import UserError
from segrefine.runs.folder import RunFolder

_SPACE = (
    "Free space there, or write elsewhere (hydra.run.dir=FOLDER; predict: output=FOLDER). The run's "
    f"{RunFolder.LAST}, if there is one, is whole: ckpt_path=last resumes from it."
)
_PLACE = (
    "Check its name and its permissions. If results go there, give another folder: hydra.run.dir=FOLDER (predict: "
    "output=FOLDER)."
)
_FILES = (
    "Raise the limit (ulimit -n 65536), or set a smaller datamodule.num_workers: every image passed is an open file."
)
_SHARED = (
    "Enlarge /dev/shm (docker run --shm-size=8g), through which the reading processes pass images, or set "
    "datamodule.num_workers=0."
)
_MEMORY = (
    "Set a smaller datamodule.batch_size (eval_batch_size while scoring), datamodule.crop_size or "
    "datamodule.num_workers; for large images evaluate and predict take window=512."
)

_DETERMINISTIC = "Set deterministic=false, or use another model."
_ONE_VALUE = "Set datamodule.batch_size to 2 or more, or a larger datamodule.crop_size."
_UNUSED = "Add trainer.strategy=ddp_find_unused_parameters_true."

_DISK_WORDS = ("No space left on device", "PytorchStreamWriter failed", "unexpected pos ", "iostream error")
_MEMORY_WORDS = (
    *("out of memory", "_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: "),
    *("Cannot allocate memory", "Unable to allocate "),
)
_REFUSED = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)

# What happened, what to do, the numbers of an OSError and the words of any error that show it. The first that fits is
# reported: where shared memory is full there is "no space left on device" too, and a worker without it dies like any
# other. The words are those of PyTorch 2 (aten/src/ATen/MapAllocator.cpp, torch/utils/data/_utils/signal_handling.py,
# caffe2/serialize/inline_container.cc, c10/core/impl/alloc_cpu.cpp) and of the C library.
_FAULTS: tuple[tuple[str, str, tuple[int, ...], tuple[str, ...]], ...] = (
    ("The shared memory is full", _SHARED, (), ("shared memory", "file </torch_", "/dev/shm")),
    ("The disk is full", _SPACE, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _DISK_WORDS),
    ("Too many files are open", _FILES, (errno.EMFILE, errno.ENFILE), ("Too many open files", "of ancdata")),
    ("The memory ran out", _MEMORY, (errno.ENOMEM,), _MEMORY_WORDS),
    ("A process that reads data died, most often for want of memory", _MEMORY, (), ("DataLoader worker (pid",)),
    ("An operation has no deterministic form here", _DETERMINISTIC, (), ("not have a deterministic implementation",)),
    ("Part of the network gets no gradient", _UNUSED, (), ("have finished reduction in the prior iteration",)),
    ("A file or folder cannot be read or written", _PLACE, _REFUSED, ("Permission denied", "Read-only file system")),
)


def explain_failure(error: BaseException) -> UserError | None:
    """Return a UserError as it is, and otherwise one for the machine's failure behind an error; None if there is none.

    It is searched for in the error and in those that led to it.
    """
    if isinstance(error, UserError):
        return error
    for link in _chain(error):
        for what, remedy, numbers, words in _FAULTS:
            if _fits(link, numbers, words):
                return UserError(f"{what} ({_last_line(link)}). {remedy}")
        if isinstance(link, ValueError) and "Expected more than 1 value per channel" in str(link):
            return UserError(f"Batch norm sees one value per channel. {_ONE_VALUE}")
        if type(link).__name__ == "MisconfigurationException":  # by which Lightning tells users of their mistakes
            return UserError(_last_line(link) + ".")
        if isinstance(link, MemoryError):
            return UserError(f"The memory ran out. {_MEMORY}")
    return None


def _fits(error: BaseException, numbers: tuple[int, ...], words: tuple[str, ...]) -> bool:
    """Judge an OSError by its number, if it has one. A data loader's worker sends only its words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in numbers
    return isinstance(error, (OSError, RuntimeError, MemoryError)) and any(word in str(error) for word in words)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, the error that it was raised from or while handling, and so on."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _last_line(error: BaseException) -> str:
    """Return the error in one line. For an error from a worker, which includes its traceback, this is the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return (lines[-1] if lines[0].startswith("Caught ") else lines[0]).rstrip(".")
