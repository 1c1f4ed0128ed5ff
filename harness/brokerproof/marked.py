"""What stands in the suites' test modules: claims and protocol cases, put there as an attribute of a function by a decorator.

Read without pytest: listings, pages and searches want what the suites declare and run none of it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from brokerproof.errors import HarnessError

T = TypeVar("T")


def marked(files: Iterable[Path], attribute: str, kind: type[T], id_of: Callable[[T], str], what: str) -> list[T]:
    """All values of that kind, by id; a module that has one from another does not count twice.

    what: "claim", for the error. Raises HarnessError when two have one id.
    """
    found: dict[str, tuple[T, Path]] = {}
    for file in sorted(files):
        name = f"brokerproof_marked_{file.parent.name}_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        for thing in vars(module).values():
            one = getattr(thing, attribute, None)
            if not isinstance(one, kind):
                continue
            other = found.setdefault(id_of(one), (one, file))
            if other[0] is not one:
                raise HarnessError(f"{what} {id_of(one)} stands in {other[1].name} and in {file.name}; ids are unique")
    return [one for _, (one, _) in sorted(found.items())]
