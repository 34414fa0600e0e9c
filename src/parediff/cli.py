"""The commands. Nothing else reads argv; heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from parediff import __version__

OVERRIDES = "Hydra overrides, such as method=[ptq] methods.ptq.weight_bits=4; see `parediff list`"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 fine, 1 a run failed, 2 the request was wrong."""
    arguments = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    from parediff.errors import RequestError

    try:
        return arguments.act(arguments)
    except RequestError as error:
        print(f"parediff: {error}", file=sys.stderr)  # noqa: T201 - this is the command line
        return 2
    except KeyboardInterrupt:
        print("parediff: interrupted; finished runs are kept, the same command resumes", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parediff",
        description="Compress and accelerate diffusion models; every run is one honest point of quality against cost.",
    )
    parser.add_argument("--version", action="version", version=f"parediff {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_runs(commands)
    _add_pages(commands)
    listing = commands.add_parser("list", help="what there is, one line each, with the paper")
    listing.add_argument(
        "kind", nargs="?", help="methods, models, metrics, samplers, experiments, …; all where left out"
    )
    listing.set_defaults(act=_list)
    bench = commands.add_parser("bench", help="a benchmark: ratios measured side by side in one process")
    bench.add_argument("name", nargs="?", help="which; without a name the benchmarks are listed")
    bench.add_argument("overrides", nargs="*", help="key=value settings of the benchmark")
    bench.set_defaults(act=_bench)
    return parser


def _add_runs(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser("run", help="one run; with -m or an experiment, many. Last line: the record's path")
    run.add_argument("-m", "--multirun", action="store_true", help="run every combination of values given with commas")
    run.add_argument("overrides", nargs="*", help=OVERRIDES)
    run.set_defaults(act=_run)
    train = commands.add_parser("train", help="train an uncompressed model; saves diffusers' folder format")
    train.add_argument("overrides", nargs="*", help=OVERRIDES)
    train.set_defaults(act=_train)


def _add_pages(commands: argparse._SubParsersAction) -> None:
    front = commands.add_parser("front", help="the front over all records below the paths")
    front.add_argument("paths", nargs="+", metavar="PATH")
    front.add_argument("--x", metavar="KEY", help="cost to lay out: bops (default), macs, latency_s, …")
    front.add_argument("--y", metavar="KEY", help="quality to lay out: fd_digits, psnr, …")
    front.add_argument("--json", metavar="FILE")
    front.add_argument("--html", metavar="FILE")
    front.set_defaults(act=_front)
    page = commands.add_parser("dashboard", help="the page over all records below the paths")
    page.add_argument("paths", nargs="+", metavar="PATH")
    page.add_argument("--output", metavar="FILE", help="where to write the page (default: dashboard.html in PATH)")
    page.add_argument("--serve", action="store_true", help="serve it on localhost, drawn anew at every reload")
    page.add_argument("--port", type=int, default=8700)
    page.set_defaults(act=_dashboard)
    sync = commands.add_parser("sync", help="upload offline tracker runs and say what was and was not uploaded")
    sync.add_argument("paths", nargs="+", metavar="PATH")
    sync.set_defaults(act=_sync)


def _run(arguments: argparse.Namespace) -> int:
    _quiet()
    from parediff.study import run_command

    return run_command(arguments.overrides, multirun=arguments.multirun)


def _train(arguments: argparse.Namespace) -> int:
    _quiet()
    from parediff.study import train_command

    return train_command(arguments.overrides)


def _front(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from parediff.front_report import front_command

    return front_command(arguments.paths, arguments.x, arguments.y, arguments.json, arguments.html, Console())


def _dashboard(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from parediff.dashboard import dashboard_command

    return dashboard_command(arguments.paths, arguments.output, arguments.serve, arguments.port, Console())


def _sync(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from parediff.tracking import sync_command

    return sync_command(arguments.paths, Console())


def _list(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from parediff.listing import list_command

    return list_command(arguments.kind, Console())


def _bench(arguments: argparse.Namespace) -> int:
    _quiet()
    from rich.console import Console

    from parediff.bench import bench_command

    return bench_command(arguments.name, arguments.overrides, Console())


def _quiet() -> None:
    """Silence libraries' notices, before they are imported and for worker processes too."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


if __name__ == "__main__":
    entry()
