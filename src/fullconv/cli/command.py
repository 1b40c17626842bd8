"""The command ``fullconv``: one module for each verb, imported when its verb is chosen.

Every error is one line, ``fullconv: error: THING: WHAT IS WRONG; WHAT TO DO``, without a traceback unless
``--debug`` is given. Exit codes: 0 done; 2 usage or data; 1 failure at run time; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from fullconv import __version__, host
from fullconv.errors import FullconvError, UsageError, suggestion

VERBS = {
    "demo": "the paper's story on built-in data, in some minutes",
    "inspect": "receptive field, stride, crops, layers and cost of nets",
    "convert": "weights from Caffe, PyTorch or a library into one file; a classifier into its dense form, with proof",
    "data": "the published data sets: list, get, verify, convert, HHA, upper bounds",
    "check": "everything that is wrong with a data set, and what it holds",
    "train": "train an FCN on a folder of images and masks",
    "evaluate": "the paper's four numbers of a model on a split",
    "compare": "runs side by side: scores, settings that differ, classes, curves",
    "predict": "segment images, folders of images and videos",
    "export": "a model as ONNX, OpenVINO or torch.export, checked before it is kept",
    "bench": "measure side by side on this machine: prediction, a training step, the loader, dense scores ...",
    "reproduce": "a study of the paper on data at hand, the paper's numbers beside",
}
"""Each verb and its line in the help; its module has its name."""


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


def build_parser(verb: str | None = None) -> tuple[Parser, Parser]:
    """Build the parser of the command, and return it with that of one verb, whose module alone is imported."""
    parser = own = Parser(
        prog="fullconv",
        description="Fully convolutional networks for semantic segmentation (Long, Shelhamer, Darrell 2015).",
        epilog="example: fullconv train photos/ --out run && fullconv predict run/model.safetensors new/ --out masks",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fullconv {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", parser_class=Parser)
    for name, summary in VERBS.items():
        if name != verb:
            verbs.add_parser(name, help=summary)
            continue
        module = import_module(f"fullconv.cli.{name}")
        own = verbs.add_parser(
            name, help=summary, description=module.__doc__, epilog=f"example: {module.EXAMPLE}", allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.add_arguments(own)
        own.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        own.set_defaults(run=module.run)
    return parser, own


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    word = next((word for word in argv if not word.startswith("-")), None)
    if word is not None and word not in VERBS and argv[0] == word:
        raise UsageError(f"'{word}' is not a verb; {suggestion(word, VERBS)}")
    parser, own = build_parser(word)
    args, extra = parser.parse_known_args(argv)
    if extra:
        flag = extra[0].split("=")[0]
        if flag.startswith("-"):
            raise UsageError(f"{flag}: there is no such flag; {suggestion(flag, own.flags())}")
        raise UsageError(f"'{extra[0]}': one word too many; see {own.prog} --help")
    if args.verb is None:
        parser.print_help()
        raise SystemExit(2)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; leaves with its exit code."""
    host.own_process()
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
