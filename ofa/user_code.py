"""Files of the user's that are executed: for models, tasks and losses of their own."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from ofa.errors import OfaError


class ModelCodeError(OfaError, ValueError):
    """A file of the user's does not give what it should; the message says where in it."""


def module_of(path: Path) -> ModuleType:
    """The file as a module of its own, executed once however often it is asked for."""
    import cloudpickle

    source, absolute = path.read_bytes(), path.resolve()
    name = f"ofa_model_{hashlib.sha256(f'{absolute} '.encode() + source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, absolute)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        # An import would take what lies compiled beside the file, which nobody vouched for.
        exec(compile(source, str(absolute), "exec", dont_inherit=True), vars(module))
    except Exception as error:  # whatever a user's code raises is for the user to know
        del sys.modules[name]
        raise error_in(path, error, "the file") from error
    cloudpickle.register_pickle_by_value(module)  # other processes have not got it
    return module


def error_in(path: Path, error: Exception, what: str) -> ModelCodeError:
    """The user's own error, at the last of its lines that is in the file."""
    absolute = str(path.resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == absolute]
    if isinstance(error, SyntaxError) and error.filename == absolute:
        lines.append(error.lineno)
    hint = (
        "; modules beside the file are found with their folder on PYTHONPATH" if isinstance(error, ImportError) else ""
    )
    line = f":{lines[-1]}" if lines else ""
    message = error.msg if isinstance(error, SyntaxError) else error
    return ModelCodeError(f"{path}{line}: {what} raises {type(error).__name__}: {message}{hint}")
