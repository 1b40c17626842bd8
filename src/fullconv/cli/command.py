"""The command ``fullconv``: one verb for each thing people do. Each verb is a file; its imports happen when it runs.

Every error is one line, ``fullconv: error: THING: WHAT IS WRONG; WHAT TO DO``, without a traceback unless
``--debug`` is given. Exit codes: 0 done; 2 usage or data; 1 failure at run time; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fullconv import __version__
from fullconv.errors import FullconvError, UsageError, suggestion


class Parser(argparse.ArgumentParser):
    """argparse with our errors: one line, the nearest flag, exit 2."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage."""
        raise UsageError(
            f"{self.prog.removeprefix('fullconv').strip() or 'fullconv'}: {message}; see {self.prog} --help"
        )

    def flags(self) -> list[str]:
        """All long flags."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command and those of its verbs."""
    from fullconv.cli import (
        bench,
        check,
        compare,
        convert,
        data,
        demo,
        evaluate,
        export,
        inspect,
        predict,
        reproduce,
        train,
    )

    parser = Parser(
        prog="fullconv",
        description="Fully convolutional networks for semantic segmentation (Long, Shelhamer, Darrell 2015).",
        epilog="example: fullconv train photos/ --out run && fullconv predict run/model.safetensors new/ --out masks",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fullconv {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", parser_class=Parser)
    parsers = {}
    for verb in (demo, inspect, convert, data, check, train, evaluate, compare, predict, export, bench, reproduce):
        name = verb.__name__.rsplit(".", 1)[1]
        own = verbs.add_parser(
            name, help=verb.HELP, description=verb.__doc__, epilog=f"example: {verb.EXAMPLE}", allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        verb.add_arguments(own)
        own.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        own.set_defaults(run=verb.run)
        parsers[name] = own
    return parser, parsers


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser, parsers = build_parser()
    wrong = next((word for word in argv if not word.startswith("-")), None)
    if wrong is not None and wrong not in parsers and argv[0] == wrong:
        raise UsageError(f"'{wrong}' is not a verb; {suggestion(wrong, parsers)}")
    args, extra = parser.parse_known_args(argv)
    if extra:
        flag = extra[0].split("=")[0]
        own = parsers.get(args.verb, parser)
        if flag.startswith("-"):
            raise UsageError(f"{flag}: there is no such flag; {suggestion(flag, own.flags())}")
        raise UsageError(f"'{extra[0]}': one word too many; see {own.prog} --help")
    if args.verb is None:
        parser.print_help()
        raise SystemExit(2)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; leaves with its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    code = 0
    try:
        args = _parse(words)
        code = args.run(args) or 0
    except FullconvError as problem:
        if debug:
            raise
        print("fullconv: error: " + " ".join(str(problem).split("\n")), file=sys.stderr)
        code = problem.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        print("fullconv: interrupted; train goes on with --resume, predict with --skip-existing", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `fullconv ... | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as problem:
        if debug:
            raise
        thing = problem.filename or "the system"
        print(
            f"fullconv: error: {thing}: {problem.strerror or problem}; check the path and its permissions",
            file=sys.stderr,
        )
        code = 1
    except (MemoryError, RuntimeError, ImportError) as problem:
        from fullconv.profiling import process_memory

        if debug or not process_memory.is_out_of_memory(problem):
            raise
        lacking = process_memory.describe(problem)
        print(f"fullconv: error: {lacking}; lower --batch-size or --crop, or take smaller images", file=sys.stderr)
        code = 1
    sys.exit(code)
