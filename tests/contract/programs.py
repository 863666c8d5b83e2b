"""The programs that roles install, loaded as modules; they have no suffix where they are called by name."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROLES = Path(__file__).resolve().parents[2] / "roles"


def load(role: str, name: str) -> ModuleType:
    path = ROLES / role / "files/usr/local/lib/trestle" / name
    loader = importlib.machinery.SourceFileLoader(path.stem.replace("-", "_"), str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module
    # As where it is installed, what it imports lies beside it.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    # Nothing must be written beside a program: roles ship the folder as it is.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = writes
    return module
