"""The ``ofa`` command: options and printing; what is done is in :mod:`ofa.workflow`."""

from __future__ import annotations

import os
import sys
import traceback

import ofa
from ofa.cli.commands import app
from ofa.cli.printing import say
from ofa.errors import OfaError, refusal_message

__all__ = ["app", "main", "say"]


def main() -> None:
    """Run the command; the user's mistakes end with a message and exit status 2, our own with a traceback and 70."""
    try:
        app()
    except KeyboardInterrupt:  # before or after a command, which says what is kept
        sys.exit(130)
    except OfaError as error:
        if os.environ.get("OFA_DEBUG"):
            say("".join(traceback.format_exception(error)))
        say(str(error), head="error: " if error.exit_status == 2 else "")
        sys.exit(error.exit_status)
    except OSError as error:
        say(refusal_message(error), head="error: ")
        sys.exit(2)
    # The last door: what was not meant for the user is ours, and said to be so.
    except Exception as error:
        say("".join(traceback.format_exception(error)))
        say(" please report it with the lines above", head=f"this is a fault of ofa {ofa.__version__}, not yours:")
        sys.exit(70)
