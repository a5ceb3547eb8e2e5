"""Checks of a run's bundles on other processors, read from the run folder into its record."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from clinipress.edge.manifest import read_card
from clinipress.errors import InputError
from clinipress.records import DeviceCheck, Result
from clinipress.store import read_json

__all__ = ["with_checks"]

PATTERN = "arm_check*.json"


def with_checks(result: Result, folder: Path) -> Result:
    """The record with the checks that lie in its run folder, ``arm_check.json`` and the like.

    Args:
        result: Of this folder.
        folder: The run folder; `scripts/arm_check` writes there with ``--json``.

    Raises:
        InputError: A file is not such a check, or was made with a bundle that is not this run's.
    """
    files = sorted(folder.glob(PATTERN))
    if not files:
        return result
    folders = {one.bundle for one in result.targets if one.bundle} | {result.bundle or ""}
    digests = {read_card(folder / name).digest for name in sorted(folders) if name}
    checks = []
    for path in files:
        try:
            check = DeviceCheck.model_validate(read_json(path))
        except ValidationError as problem:
            where = ".".join(str(part) for part in problem.errors()[0]["loc"])
            raise InputError(
                f"the result of an arm check in '{path}'", f"one without '{where}'", "run it again"
            ) from None
        if check.bundle_sha256 not in digests:
            raise InputError(
                f"a check of this run's bundle in '{path.name}'",
                f"one of the bundle {check.bundle_sha256[:12]}",
                "remove the file, or check the bundle again",
            )
        checks.append(check)
    return result.model_copy(update={"device_checks": tuple(checks)})
