"""Reading of untrusted files with limits, and atomic writing.

Every file of a user, a data set or a download is opened here, or checked here before a library opens it (`check_file`).
Refused, with the path and the remedy, are:

- files that are not regular: opening a FIFO blocks, opening a device may have effects, /dev/zero never ends;
- placeholders of the content: Git LFS and git-annex pointers, web pages saved under the file's name;
- files larger than their kind (`LARGEST`), JSON and YAML nested too deeply or with huge numbers, and YAML aliases, by
  which a few hundred bytes expand to gigabytes;
- text files that are not text.

Text from a file passes `text.printable` before it is logged. Callers of pickle, model and image libraries limit what
those may cost.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from spectradino_core.text import printable

AnyPath = TypeVar("AnyPath", bound=PurePath)

_MIB = 1 << 20

LARGEST: dict[str, int] = {
    "calibration file": _MIB // 4,
    "parameter file": _MIB,
    "settings file": 16 * _MIB,
    "bag metadata": 8 * _MIB,  # 7 s per MiB to parse
    "list of names": 64 * _MIB,
    "VOC label file": 4 * _MIB,
    "YOLO label file": 4 * _MIB,
    "label file": 2048 * _MIB,
    "manifest": 2048 * _MIB,
    "image": 512 * _MIB,
    "model file": 4096 * _MIB,
    "checkpoint": 64 * 1024 * _MIB,
    "bag file": 1 << 60,
    "file": 1 << 60,
}
"""Maximum size in bytes by kind of file: generous for real files, and a bound for endless ones."""

_MAX_DEPTH = 64
_MAX_NODES = 10_000
_MAX_DIGITS = 100
_MAX_INTEGER = 1 << 64
_LONG_DIGITS = re.compile(r"\d{20}")

_POINTER_BYTES = 1024
_POINTERS = (
    (
        re.compile(rb"version https://(git-lfs\.github\.com|hawser\.github\.com)/spec/"),
        "is a Git LFS pointer, not the content itself: run 'git lfs pull' in its repository",
    ),
    (
        re.compile(rb"/annex/objects/|\.\.?/(\.\./)*\.git/annex/objects/"),
        "is a git-annex pointer, not the content itself: run 'git annex get' (or 'datalad get') on it",
    ),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html)[\s>]", re.IGNORECASE),
        "is a web page (a login or error page?), not the content itself: download it again",
    ),
)
_KINDS_OF_FILE = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class FileError(ValueError):
    """An untrusted file is refused; the message names it, the reason and the remedy."""


@contextmanager
def errors_as(kind: type[Exception], *caught: type[Exception]) -> Iterator[None]:
    """Raise the errors of the given kinds, by default FileError, as another kind with the same message."""
    kinds = caught or (FileError,)
    try:
        yield
    except kinds as error:
        raise kind(str(error)) from None


# -------------------------------------------------------------------------------------------------------------- reading


def open_file(path: str | os.PathLike[str], kind: str) -> BinaryIO:
    """Open an untrusted file for reading, without blocking, after checks of its type, size and first bytes.

    Links are followed, as the user made them; `kind` is a key of `LARGEST`, also used in errors.

    Raises:
        FileError: there is no such regular file, or it can't be read, is too large or a placeholder.
    """
    shown = _shown(path, kind)
    try:
        _refuse_special(os.stat(path).st_mode, shown)  # before opening: opening a device may have effects
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileError:
        raise
    except FileNotFoundError:
        raise FileError(_missing(path, shown)) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise FileError(f"{shown} can't be read: {_reason(error)}") from None
    file = os.fdopen(handle, "rb")
    try:
        found = os.fstat(handle)
        _refuse_special(found.st_mode, shown)  # it may have been replaced since
        if found.st_size > LARGEST[kind]:
            raise FileError(
                f"{shown} is too long: {_size(found.st_size)}, such a file has at most {_size(LARGEST[kind])}"
            )
        start = file.read(_POINTER_BYTES) or b""  # None: /proc has files that would block
        file.seek(0)
        for pattern, meaning in _POINTERS:
            if pattern.match(start):
                raise FileError(f"{shown} {meaning}")
    except OSError as error:
        file.close()
        raise FileError(f"{shown} can't be read: {_reason(error)}") from None
    except BaseException:
        file.close()
        raise
    return file


def check_file(path: str | os.PathLike[str], kind: str) -> Path:
    """Apply the checks of `open_file` to a file that a library opens, and return its path."""
    open_file(path, kind).close()
    return Path(path)


def read_bytes(path: str | os.PathLike[str], kind: str) -> bytes:
    """Read a file; raises the errors of `open_file`."""
    with open_file(path, kind) as file:
        try:
            data = file.read(LARGEST[kind] + 1) or b""  # the reported size may be wrong: it is 0 in /proc
        except OSError as error:
            raise FileError(f"{_shown(path, kind)} can't be read: {_reason(error)}") from None
    if len(data) > LARGEST[kind]:
        raise FileError(f"{_shown(path, kind)} is too long: such a file has at most {_size(LARGEST[kind])}")
    return data


def file_digest(path: str | os.PathLike[str], kind: str = "file") -> str:
    """Compute the SHA-256 of a file's content; raises the errors of `open_file`, and OSError."""
    digest = hashlib.sha256()
    with open_file(path, kind) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_text(path: str | os.PathLike[str], kind: str) -> str:
    """Read a UTF-8 text file, with or without a byte order mark; FileError if it is not, and see `open_file`."""
    data = read_bytes(path, kind)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte 0x{data[error.start]:02x} at {error.start}"
        raise FileError(f"{_shown(path, kind)} is not UTF-8 text ({where}): save it as UTF-8") from None


def read_json(path: str | os.PathLike[str], kind: str) -> Any:
    """Read a JSON file; raises the errors of `read_text` and `parse_json`."""
    return parse_json(read_text(path, kind), _shown(path, kind))


def parse_json(text: str, source: str) -> Any:
    """Parse untrusted JSON with integers below 2^64 and at most 64 levels.

    Raises:
        FileError: the JSON is invalid or exceeds the limits; names `source`.
    """
    try:
        # A Python function called for each number is slow, so it is used only if the text has a long number.
        data = json.loads(text, parse_int=_integer) if _LONG_DIGITS.search(text) else json.loads(text)
    except RecursionError:
        raise FileError(f"{source} can't be read as JSON: it is nested too deeply") from None
    except ValueError as error:
        raise FileError(f"{source} can't be read as JSON: {printable(str(error))}") from None
    level = [data]
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            inner += [child for child in children if type(child) is dict or type(child) is list]
        if not inner:
            return data
        level = inner
    raise FileError(f"{source} can't be read as JSON: it is nested more than {_MAX_DEPTH} levels deep")


def read_yaml(path: str | os.PathLike[str], kind: str) -> Any:
    """Read a YAML file; raises the errors of `read_text` and `parse_yaml`."""
    return parse_yaml(read_text(path, kind), _shown(path, kind))


def parse_yaml(text: str, source: str) -> Any:
    """Parse untrusted YAML: one document, plain values, no aliases, no repeated keys, at most 64 levels.

    Raises:
        FileError: the YAML is invalid or exceeds the limits, or PyYAML is not installed; names `source`.
    """
    try:
        import yaml
    except ImportError as error:  # always installed in a ROS workspace
        raise FileError(f"{source} can't be read without PyYAML ({error}): pip install pyyaml") from None

    class Loader(yaml.SafeLoader):
        depth = nodes = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise FileError(f"{source} uses a YAML alias (*{self.peek_event().anchor}): write the value out")
            self.depth, self.nodes = self.depth + 1, self.nodes + 1
            if self.depth > _MAX_DEPTH or self.nodes > _MAX_NODES:
                raise FileError(f"{source} holds more, or deeper nested, values than such a file has")
            try:
                node = super().compose_node(parent, index)
            finally:
                self.depth -= 1
            keys = (
                [key.value for key, _ in node.value if isinstance(key.value, str)]
                if isinstance(node, yaml.MappingNode)
                else []
            )
            if twice := [key for key, count in Counter(keys).items() if count > 1]:
                raise FileError(f"{source} has the key {printable(twice[0])[:80]!r} twice: keep one of them")
            if isinstance(node, yaml.ScalarNode) and node.tag in _YAML_NUMBERS and len(node.value) > _MAX_DIGITS:
                raise FileError(f"{source} holds a number of {len(node.value)} digits")
            return node

    try:
        return yaml.load(text, Loader=Loader)
    except FileError:
        raise
    except RecursionError:
        raise FileError(f"{source} is no valid YAML: it is nested too deeply") from None
    except Exception as error:  # odd tags make PyYAML raise IndexError, KeyError, AttributeError and others
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{source} is no valid YAML: {printable(reason)}") from None


_YAML_NUMBERS = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))


def child_path(root: AnyPath, text: str) -> AnyPath:
    """Resolve a path with "/" from an untrusted file, relative to a folder.

    Only the text is checked: links inside the folder are the user's own.

    Raises:
        FileError: the path is empty or absolute, holds a zero byte, or leaves the folder.
    """
    path = PurePosixPath(text)
    if not text or "\0" in text or len(text) > 4096:
        raise FileError(f"'{printable(text)}' is not a path")
    if path.is_absolute() or ".." in path.parts or "\\" in text or ":" in (path.parts or ("",))[0]:
        raise FileError(f"'{printable(text)}': paths are relative to {printable(str(root))} and may not leave it")
    return root / path


def folder_fault(path: Path) -> str:
    """Return why a path is no folder to read from; "" if it is one."""
    if path.is_dir():
        return ""
    fault = "a file, not a folder; give a folder" if path.exists() else "no such folder"
    return f"{printable(str(path))}: {fault}"


def listing(folder: Path) -> str:
    """Return the first names in a folder, for messages."""
    names = sorted(entry.name for entry in folder.iterdir())
    return printable(", ".join(names[:8])) + (", .." if len(names) > 8 else "") if names else "nothing in it"


def _shown(path: str | os.PathLike[str], kind: str) -> str:
    return f"{kind} {printable(os.fspath(path))}"


def _refuse_special(mode: int, shown: str) -> None:
    if not stat.S_ISREG(mode):
        found = next((name for is_kind, name in _KINDS_OF_FILE if is_kind(mode)), "something else")
        raise FileError(f"{shown} is {found}, not a regular file: give the path of a file")


def _missing(path: str | os.PathLike[str], shown: str) -> str:
    """Return the error message of a missing file; a broken link may be a file that was not fetched."""
    with suppress(OSError, ValueError):
        target = os.readlink(path)
        if "annex/objects" in target:
            return f"{shown} is a git-annex link without its content: run 'git annex get' (or 'datalad get') on it"
        return f"{shown} is a link to {printable(target)}, which does not exist: check the path"
    return f"{shown} does not exist: check the path"


def _reason(error: Exception) -> str:
    return printable(getattr(error, "strerror", None) or str(error))


def _size(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (_MIB, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} bytes"


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) < _MAX_DIGITS else _MAX_INTEGER
    if abs(value) >= _MAX_INTEGER:
        raise ValueError(f"a whole number of {len(digits.lstrip('-'))} digits, larger than 2^64")
    return value


# -------------------------------------------------------------------------------------------------------------- writing


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Return whether a write into `folder` failed for lack of space or quota, which PyTorch's errors do not show."""
    if getattr(error, "errno", None) in _FULL or any(os.strerror(number) in str(error) for number in _FULL):
        return True
    found = _space(folder)
    return found is not None and found[0] < _MIN_SPACE


def write_error(path: str | os.PathLike[str], error: BaseException, needed: int = 0) -> OSError:
    """Return the error for a failed write of `path`, with free and `needed` bytes (0: unknown) for a full disk."""
    path = Path(path)
    if getattr(error, "errno", None) == errno.EFBIG or os.strerror(errno.EFBIG) in str(error):
        limits = "the largest file that its disk (FAT32: 4 GiB) or 'ulimit -f' allows"
        return OSError(errno.EFBIG, f"{path} could not be written: it exceeds {limits}")
    if not is_disk_full(error, path.parent):
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        return OSError(getattr(error, "errno", None), f"{path} could not be written: {reason}")
    found = _space(path.parent)
    space = [f"{_size(found[0])} of {_size(found[1])} free"] if found else []
    space += [f"about {_size(needed)} needed"] if needed else []
    return OSError(
        errno.ENOSPC,
        f"{path} could not be written: the disk is full ({', '.join(space) or 'or the quota is spent'}); the previous "
        "content is kept: make room, and run the same command again",
    )


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: a limit on the size of files
_MIN_SPACE = 1 << 16


def _space(folder: Path) -> tuple[int, int] | None:
    """Return free and total bytes of a folder's disk; None if unknown."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def check_folder(folder: Path) -> None:
    """Raise OSError, with the culprit, unless a folder exists, or it and its parents can be created."""
    nearest = next(one for one in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(one))
    if not nearest.is_dir():
        kind = "a file" if nearest.exists() else "a broken link"
        raise OSError(errno.ENOTDIR, f"{folder} can't be a folder, because {nearest} is {kind}: choose another path")
    if not os.access(nearest, os.W_OK):
        raise OSError(
            errno.EACCES, f"{folder} can't be written to, because {nearest} is read-only: choose another path"
        )


def make_folder(folder: Path) -> None:
    """Create a folder for output, and its parents; OSError with the culprit if that fails."""
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error


@contextmanager
def written_atomically(path: str | os.PathLike[str], needed: int = 0) -> Iterator[Path]:
    """Yield a scratch path beside `path`, which replaces `path` atomically at the end of the block.

    A crash, a full disk or an exception leaves `path` untouched; the scratch file is removed. For symbolic links see
    `replaced_path`.

    Raises:
        OSError: the folder can't be written to, or the disk is full; names `path` and the bytes `needed` (0: unknown).
    """
    target = replaced_path(Path(path))
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        make_folder(target.parent)
        yield scratch
        with scratch.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut could leave an empty file under the new name
        scratch.chmod(new_file_mode())  # some writers create files that only their owner may read
        os.replace(scratch, target)
    except Exception as error:
        if isinstance(error, OSError) or is_disk_full(error, target.parent):
            raise write_error(target, error, needed) from error
        raise
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            scratch.unlink()


def new_file_mode() -> int:
    """Return the permissions that the process's umask gives a new file."""
    try:  # os.umask would change it for other threads
        found = re.search(r"^Umask:\s*([0-7]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return 0o666 & ~(0o022 if found is None else int(found[1], 8))


def replaced_path(path: Path) -> Path:
    """Return what to replace when `path` is written: what a symbolic link points to, not the link.

    If that is read-only, as in content-addressed stores, it is the link.
    """
    is_read_only = path.exists() and not path.stat().st_mode & stat.S_IWUSR
    return Path(os.path.realpath(path)) if path.is_symlink() and not is_read_only else path


def error_text(error: Exception) -> str:
    """Return the message of an error; of those that this package raises as OSError without "[Errno N]"."""
    bare = isinstance(error, OSError) and error.strerror and error.filename is None
    if bare and str(getattr(error, "strerror", "")) in map(os.strerror, _FULL[:2]):  # a library's, of any file
        folder = os.environ.get("TMPDIR", "/tmp")
        return f"{error}: make room in {folder}, the folder of temporary files (TMPDIR), and where the output goes"
    return str(error.strerror if bare and isinstance(error, OSError) else error)


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file atomically, text as UTF-8; raises as `written_atomically`."""
    data = content.encode() if isinstance(content, str) else content
    with written_atomically(path, len(data)) as scratch:
        scratch.write_bytes(data)
