"""The command line: parse, call, print."""

import os
import sys
import traceback
from collections.abc import Sequence

from lpft.cli.console import print_error, write_any_text
from lpft.cli.parser import BAD_INPUT, parse
from lpft.distributed import check_environment
from lpft.errors import explain, unexpected
from lpft.progress import log_to_stderr, quiet_libraries, share_the_machine, visible_progress

UNEXPECTED, INTERRUPTED = 1, 130

_KEPT = "finished results are kept"
_TRAINING = ("demo", "train", "sweep", "reproduce")
_COMPUTING = (*_TRAINING, "interpolate", "evaluate", "predict", "explain", "serve", "ntk", "export")
"""Commands for which the environment is checked before any work."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lpft`` and give its exit status.

    0; 2 for bad input; 1 for an unexpected error, or where a run of a sweep failed; 130 for Ctrl-C.
    """
    write_any_text()
    options = parse(arguments)
    share_the_machine()
    quiet_libraries()
    log_to_stderr()
    try:
        if options.run.__name__ in _COMPUTING:
            training = options.run.__name__ in _TRAINING
            launched = getattr(options, "distributed", None)
            check_environment(training=training, launched=launched)
        with visible_progress():
            status = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        resumes = hasattr(options, "resume") and getattr(options, "output", True) is not None
        go_on = "; --resume continues from there" if resumes else ""
        end = "the service has stopped" if options.run.__name__ == "serve" else _KEPT + go_on
        print(f"interrupted: {end}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        input_error = explain(error)
        if input_error is not None:
            print_error(input_error, keys=options.keys)
            return BAD_INPUT
        print_error(f"{unexpected(error)} (--debug shows where)")
        return UNEXPECTED
    return 0 if status is None else status
