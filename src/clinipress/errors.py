"""Every error clinipress raises on purpose.

    ClinipressError
    ├── InputError              the call, the data or the configuration is wrong (exit code 2)
    │   ├── RecipeError         a study file or one of its values
    │   ├── DataError           a data set as a whole
    │   │   └── ImageError      one image: the audit sets it aside, `predict` refuses it
    │   │       └── NoPictureError  a file that is whole and holds no picture, such as a dose
    │   ├── ModelError          a model name, a checkpoint, the number of classes
    │   ├── BundleError         a bundle that is incomplete, changed or foreign
    │   └── MissingExtraError   an optional part of clinipress is not installed
    │       └── BrokenExtraError    it is, but cannot be imported
    └── StudyError              the work itself could not go on (exit code 2; it can be resumed)
        ├── DivergedError       the loss became NaN or infinite
        └── StorageError        the disk is full or cannot be written

One grammar for all: what was expected, what came, how to mend it, on one line.
"""

from __future__ import annotations

__all__ = [
    "BrokenExtraError",
    "BundleError",
    "ClinipressError",
    "DataError",
    "DivergedError",
    "ImageError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "NoPictureError",
    "RecipeError",
    "StorageError",
    "StudyError",
]


LONGEST = 600  # letters of a clause


class ClinipressError(Exception):
    """Base of all errors raised on purpose; its text is one line, fit for a terminal.

    Args:
        expected: What was expected, as a clause: "a folder with one sub-folder per class".
        got: What came instead.
        fix: How to mend it; optional where nothing sensible can be said.

    Example:
        >>> str(InputError("a folder of images", "the file 'a.txt'", "pass the folder itself"))
        "expected a folder of images, got the file 'a.txt': pass the folder itself"
    """

    def __init__(self, expected: str, got: str, fix: str | None = None) -> None:
        self.expected, self.got, self.fix = expected, got, fix
        text = f"expected {_cut(expected)}, got {_cut(got)}" + (f": {_cut(fix)}" if fix else "")
        # names of files and classes may hold anything, a terminal's control characters too
        line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
        super().__init__(line)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the three clauses, so that an error crosses a process boundary whole."""
        return type(self), (self.expected, self.got, self.fix)


def _cut(clause: str) -> str:
    """A clause of a length that can be read, its end kept: what others wrote may fill a book."""
    if len(clause) <= LONGEST:
        return clause
    return f"{clause[: LONGEST - 100]} [...] {clause[-90:]}"


class InputError(ClinipressError):
    """The call, the data or the configuration is wrong."""


class RecipeError(InputError):
    """A study file, or one of its values, is wrong."""


class DataError(InputError):
    """A data set as a whole cannot be used."""


class ImageError(DataError):
    """One image cannot be read, or is not the kind of image that was asked for."""


class NoPictureError(ImageError):
    """A file of a known format that is whole, and whose content is no picture."""


class ModelError(InputError):
    """A model name, a checkpoint or the number of classes is wrong."""


class BundleError(InputError):
    """A bundle is incomplete, was changed, or was made by something else."""


class MissingExtraError(InputError):
    """An optional part of clinipress is needed and not installed.

    Args:
        what: What needs it, as a clause: "reading DICOM".
        extra: The name of the extra that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        self.what, self.extra = what, extra
        super().__init__(
            f"the packages for {what}",
            "an environment without them",
            f"pip install 'clinipress[{extra}]'",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.what, self.extra)


class BrokenExtraError(MissingExtraError):
    """An optional part of clinipress is installed and cannot be imported.

    Args:
        package: The package, as it is imported.
        extra: The name of the extra that brings it.
        problem: What importing it raised, in words.
    """

    def __init__(self, package: str, extra: str, problem: str) -> None:
        self.package, self.extra, self.problem = package, extra, problem
        self.what = f"importing {package}"
        ClinipressError.__init__(
            self,
            f"an installed package '{package}' that imports",
            problem,
            f"pip install --force-reinstall 'clinipress[{extra}]'",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.package, self.extra, self.problem)


class StudyError(ClinipressError):
    """The work itself could not go on; what was finished is kept and the run can be resumed."""


class DivergedError(StudyError):
    """The training loss became NaN or infinite."""


class StorageError(StudyError):
    """The disk is full or cannot be written."""
