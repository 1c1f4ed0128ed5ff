"""The command line. Commands import what they need when they are called, so that ``check`` starts fast."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from brokerproof import __version__, completing
from brokerproof.errors import HarnessError, HistoryError, UsageError, unknown
from brokerproof.manual import page

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="""Which delivery promises does a message broker keep? Breaks real brokers and says, with evidence.

Start here:

    brokerproof run --broker memory            the whole flow in seconds, no container needed

    brokerproof run                            RabbitMQ, Kafka and RocketMQ in containers, quick profile

    brokerproof conformance --broker rabbitmq  protocol cases on the wire

    brokerproof list claims                    what can be decided

Exit codes: 0 all as expected · 1 an unexpected verdict · 2 wrong usage · 3 evidence missing · 4 the harness or its
environment failed.""",
)  # fmt: skip
images_app = typer.Typer(no_args_is_help=True, help="The container images that brokers run in.")
app.add_typer(images_app, name="images")
target_app = typer.Typer(
    no_args_is_help=True, help="A broker that somebody else runs: its file, and what can be done to it."
)
app.add_typer(target_app, name="target")
TargetFile = Annotated[
    Path | None,
    typer.Option("--target", metavar="FILE", help="A broker of your own, in place of --broker; see `target init`."),
]
Destructive = Annotated[
    bool, typer.Option("--allow-destructive", help="Faults may break the target's nodes, as its file says how.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list what would be touched on the target.")]

Broker = Annotated[
    list[str],
    typer.Option(
        "--broker",
        metavar="PRODUCT[=VERSION]",
        help="Broker to test, repeatable, e.g. kafka=4.3.1.",
        autocompletion=completing.brokers,
    ),
]


def main() -> None:
    """Entry point: errors that are raised on purpose become one sentence and an exit code."""
    try:
        # Outside its standalone mode click hands an exit code back instead of raising it.
        sys.exit(app(standalone_mode=False, prog_name="brokerproof") or 0)
    except HarnessError as exc:
        print(f"brokerproof: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)
    except typer.Exit as exc:
        sys.exit(exc.exit_code)
    except typer.Abort:
        sys.exit(130)
    except Exception as exc:
        # Click's own usage errors know how to show themselves; their exit code is the fixed 2.
        if hasattr(exc, "show") and hasattr(exc, "exit_code"):
            exc.show()
            sys.exit(2)
        raise


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version, what answers depend on, and exit.")] = False
) -> None:  # fmt: skip
    if version:
        from brokerproof.manual import version as told

        print(told())
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=page("run"))
def run(
    broker: Broker = [],
    select: Annotated[
        list[str],
        typer.Option(
            help="Claim or section to decide, repeatable; see `list claims`.", autocompletion=completing.claims
        ),
    ] = [],
    profile: Annotated[
        str, typer.Option(help="quick (deterministic, once), standard or thorough.", autocompletion=completing.profiles)
    ] = "quick",
    variant: Annotated[list[str], typer.Option(help="Only this variant of a cell, repeatable.")] = [],
    schedule: Annotated[
        list[str],
        typer.Option(
            help="Promises under this schedule instead of their own, see `list schedules`.",
            autocompletion=completing.schedules,
        ),
    ] = [],
    seed: Annotated[
        int | None, typer.Option(help="Seed of the plans. Default: random, and named in the report.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Run folder; must not exist. Default: runs/UTC-SEED.")] = None,
    expected: Annotated[Path | None, typer.Option(help="Folder of expected results. Default: the suite's own.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decide cells. Default: one per broker.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run that was killed or interrupted: what it decided stays. No other option.",
        ),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Count and judge every trial while it runs.")] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first promise that is seen to be broken, before the drain.")
    ] = False,
    target: TargetFile = None,
    allow_destructive: Destructive = False,
    dry_run: DryRun = False,
) -> None:
    """Decides claims on real brokers: breaks them, checks the history, prints verdicts, writes the report.

    Without --broker: kafka, rabbitmq and rocketmq, side by side.
    """
    from brokerproof.claims import declared
    from brokerproof.experiment import PROFILES
    from brokerproof.pytest_plugin import run_pytest, targets
    from brokerproof.schedules import schedules
    from brokerproof.suites import suites

    if resume is not None:
        from brokerproof.resuming import prepare

        given = (broker, select, variant, schedule, run_dir, expected, target, allow_destructive, dry_run)
        if any(given) or seed is not None:
            raise UsageError("--resume asks for what the run was asked for; leave the other options away")
        folder, asked = prepare(resume)
        broker, select, variant, schedule = (asked[name] for name in ("broker", "select", "variant", "schedule"))
        profile, seed, run_dir = str(asked["profile"]), int(asked["seed"]), folder.path
        expected = Path(asked["expected"]) if "expected" in asked else None
        target = Path(asked["target"]) if "target" in asked else None
        allow_destructive = "allow-destructive" in asked
    if target is None and (allow_destructive or dry_run):
        raise UsageError("--allow-destructive and --dry-run are about a --target; brokers of our own are made for it")
    if target is not None and broker:
        raise UsageError("--target and --broker: a run is about one of them")
    if target is not None and (workers or 1) > 1:
        raise UsageError(
            "--workers with --target: one process decides one cell at a time there, or the load would add up"
        )
    chosen = targets(broker) if target is None else []
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    claims = [d.claim for d in declared(suites() / "claims")]
    known = {c.id for c in claims} | {c.section for c in claims}
    for name in select:
        if name not in known:
            raise unknown("claim", name, known, listed="brokerproof list claims")
    for name in schedule:
        if name not in schedules():
            raise unknown("schedule", name, schedules())
    if target is not None:
        from brokerproof.adopting import Adoption
        from brokerproof.brokers.base import adopting
        from brokerproof.runtime import front
        from brokerproof.targeting import dry_run as would
        from brokerproof.targeting import loaded

        adoption = Adoption(loaded(target), "", allow_destructive)
        if dry_run:
            lines = would(adoption, select=select, profile=profile, variant=variant, seed=seed or 0)
            print("\n".join([*lines, "nothing was done"]))
            return
        # What is not there, the broker or what is to stand in front of it, is told before anything starts.
        adopting(adoption.product).version_of(adoption.target)
        front.way(adoption.target)
    if run_dir is not None and run_dir.exists() and resume is None:
        raise UsageError(f"run folder {str(run_dir)!r} exists; name another, or `brokerproof check {run_dir}`")
    raise typer.Exit(
        run_pytest(
            brokers=[f"{p}={v}" for p, v in chosen], select=select, profile=profile, variant=variant, seed=seed,
            run_dir=run_dir, expected=expected, workers=max(1, len(chosen)) if workers is None and target is None else workers or 1, live=live, fail_fast=fail_fast, schedule=schedule,
            resume=resume is not None, target=target, destructive=allow_destructive,
        )
    )  # fmt: skip


@app.command(epilog=page("conformance"))
def conformance(
    broker: Broker = [],
    case: Annotated[
        list[str],
        typer.Option(metavar="ID", help="Only this case, e.g. A2.03, repeatable.", autocompletion=completing.cases),
    ] = [],
    section: Annotated[list[str], typer.Option(metavar="ID", help="Only this section, e.g. A2, repeatable.")] = [],
    level: Annotated[
        list[str], typer.Option(help="Only this level: must, should, may, extension, unspecified; repeatable.")
    ] = [],
    tag: Annotated[
        list[str], typer.Option(help="Only with this tag, e.g. slow; no-slow: only without. Repeatable.")
    ] = [],
    variant: Annotated[list[str], typer.Option(help="Only this variant of a case, repeatable.")] = [],
    strict: Annotated[bool, typer.Option("--strict", help="NONSTRICT is not as expected either.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the order of cases. Default: random.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Run folder; must not exist. Default: runs/UTC-SEED.")] = None,
    expected: Annotated[Path | None, typer.Option(help="Folder of expected results. Default: the suite's own.")] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="List the cases and end; with --target, what is left out there, and why.")
    ] = False,
    target: TargetFile = None,
    dry_run: DryRun = False,
) -> None:
    """Sends what the protocols allow and what they forbid, and judges the answers, octet by octet.

    RabbitMQ by AMQP 0-9-1, Kafka by its protocol, RocketMQ by remoting and gRPC. Without --broker: all three. On a --target
    names are under its prefix, and cases that need what it does not give (its nodes, its settings) are SKIP with the reason.
    """
    from brokerproof.conformance.case import cases_of
    from brokerproof.conformance.protocols import PROTOCOLS
    from brokerproof.conformance.running import Choice, jobs_of
    from brokerproof.listing import cases
    from brokerproof.pytest_plugin import run_cases, targets
    from brokerproof.suites import suites

    if target is not None and broker:
        raise UsageError("--target and --broker: a run is about one of them")
    if target is None and dry_run:
        raise UsageError("--dry-run is about a --target; brokers of our own are made for it")
    adoption = None
    if target is not None:
        from brokerproof.adopting import Adoption
        from brokerproof.targeting import loaded

        adoption = Adoption(loaded(target), "")
    chosen = targets(broker) if adoption is None else [(adoption.product, adoption.target.version)]
    for product, _ in chosen:
        if product not in PROTOCOLS:
            raise unknown("product with protocol cases", product, PROTOCOLS)
    known = cases()
    ids = {c["case"] for c in known} | {c["slug"] for c in known}
    for name in case:
        if name.partition("@")[0] not in ids:
            raise unknown("case", name, ids, listed="brokerproof list cases")
    for name in section:
        if name not in {c["section"] for c in known}:
            raise unknown("section", name, {c["section"] for c in known})
    mine = {PROTOCOLS[product] for product, _ in chosen}
    choice = Choice(case=case, section=section, level=level, tag=tag, variant=variant)
    if adoption is not None and (dry_run or list_only):
        from brokerproof.targeting import cases_in_words

        print(
            "\n".join([*cases_in_words(adoption, choice, each=list_only), *(["nothing was done"] if dry_run else [])])
        )
        return
    if list_only:
        jobs = jobs_of(c for c in cases_of(suites() / "conformance") if c.protocol in mine)
        chosen_ids = {job.case.id for job in jobs if choice.takes(job)}
        _print_rows(
            [{k: c[k] for k in ("case", "slug", "level", "requirement")} for c in known if c["case"] in chosen_ids]
        )
        return
    if run_dir is not None and run_dir.exists():
        raise UsageError(f"run folder {str(run_dir)!r} exists; name another")
    if adoption is not None:
        from brokerproof.brokers.base import adopting
        from brokerproof.conformance.protocols import on_target

        # What cannot be is told before anything starts: a broker that is not there, or that cases cannot be sent to.
        version = adopting(adoption.product).version_of(adoption.target)
        on_target(Adoption(adoption.target, version), "admitted").close()
    raise typer.Exit(
        run_cases(
            brokers=[f"{p}={v}" for p, v in chosen] if adoption is None else [], target=target, case=case, section=section, level=level, tag=tag, variant=variant,
            strict=strict, seed=seed, run_dir=run_dir, expected=expected,
        )
    )  # fmt: skip


@app.command(epilog=page("check"))
def check(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|DIR",
            autocompletion=completing.runs,
            help="A run folder, or a folder that holds history.arrow.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    replace: Annotated[bool, typer.Option(help="Write a run's new verdicts into its results.json and report.")] = False,
    memory_limit: Annotated[
        str, typer.Option(metavar="SIZE", help="Judge a history that needs more, e.g. 1GiB, part by part.")
    ] = "",
) -> None:
    """Judges what a run left, again: no engine, no broker, no client library.

    A folder with only a history.arrow: prints every anomaly and observation; exit 0 clean, 1 anomalies, 3 evidence
    missing. A run: judges all of it and writes rechecks/TOOL-VERSION/results.json, or, with --replace, results.json.
    """
    if (path / "run.json").exists():
        if memory_limit:
            raise UsageError(
                f"--memory-limit is for one history at a time: `brokerproof check {path}/trials/TRIAL --memory-limit …`"
            )
        raise typer.Exit(_check_run(path, as_json=as_json, replace=replace))
    from brokerproof.checking import check_folder

    raise typer.Exit(check_folder(path, as_json=as_json, memory_limit=memory_limit))


def _check_run(path: Path, *, as_json: bool, replace: bool) -> int:
    from brokerproof.render import render_all
    from brokerproof.results import exit_code, load_json, open_run, write_json
    from brokerproof.run import recheck
    from brokerproof.show import console, print_results

    folder = open_run(path)
    entries = recheck(folder)
    if replace:
        for entry in entries:
            folder.write_cell(entry["slug"], entry)
        results = folder.fold()
        render_all(folder.path)
        written = {"report": folder.path / "report" / "index.html", "results": folder.path / "results.json"}
    else:
        old = folder.path / "results.json"
        results = {**(load_json(old) if old.exists() else folder.fold()), "claims": entries}
        out = folder.path / "rechecks" / __version__
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "results.json", results)
        written = {"results": out / "results.json"}
    if as_json:
        print(json.dumps(results))
    else:
        print_results(console(), results, folder.path, written)
    return exit_code(results)


@app.command(epilog=page("compare"))
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, in any order.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the site goes: new, empty, or an earlier site.")],
    expected: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Hold results against these lines, not against those of each run's day."),
    ] = None,
) -> None:
    """Makes a static site from many runs: every claim and case by broker, version and configuration, and what changed.

    It opens from disk (`index.html`) and from any web server, and needs no network. The same runs give the same bytes.
    Of each cell the latest run is shown, the others are its history; `differences.html` sets two runs or versions
    beside each other.
    """
    from brokerproof.site import build

    if expected is not None and not expected.is_dir():
        raise UsageError(
            f"compare: --expected wants the folder of <product>-<version>.toml files; {str(expected)!r} is none"
        )
    built = build(runs, out, expected)
    for note in built.notes:
        print(f"note     {note}")
    print(f"site     {built.index}")
    print(
        f"cells    {built.cells} of {built.runs} run{'' if built.runs == 1 else 's'}; {built.files} files, {built.octets / 1e6:.1f} MB"
    )


@app.command(epilog=page("gate"))
def gate(
    path: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or its results.json.", autocompletion=completing.runs)
    ],
    expected: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Expected verdicts, or a folder of them. Default: the run's own."),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Instead: fail only on what got worse since this run.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Make the file of --expected from what this run showed; judges nothing.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="NONSTRICT is not as expected either.")] = False,
    annotations: Annotated[
        str, typer.Option(help="auto (by the environment), github, gitlab (a Code Quality report) or none.")
    ] = "auto",
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Summary in Markdown. Default: the job's own, on GitHub.")
    ] = None,
) -> None:
    """Whether a pipeline may go on: stops at a new violation, an unexpected pass, a changed count.

    With --baseline it stops only at what got worse: a verdict (HOLDS, UNKNOWN, VIOLATED, in this order), or a figure whose
    interval lies beyond that of the baseline. UNKNOWN is missing evidence: exit 3, and the reason says which.
    """
    from brokerproof.annotating import show

    raise typer.Exit(
        show(
            path, expected=expected, baseline=baseline, write=write, annotations=annotations, to=summary, strict=strict
        )
    )


@app.command(epilog=page("bundle"))
def bundle(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", autocompletion=completing.runs)],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ends with .tar.zst or .tar.gz. Default: ./RUN.tar.zst.")
    ] = None,
    redacted: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Leave the same files there too: what a pipeline may publish. Must not exist."
        ),
    ] = None,
) -> None:
    """Packs a run into one file to hand on: the same octets each time, a SHA-256 for every file, credentials redacted.

    What is redacted where stands in its bundle.json. The histories stay, so that whoever gets it can judge them again.
    """
    from brokerproof.bundling import show

    raise typer.Exit(show(path, out, redacted))


@app.command(epilog=page("verify"))
def verify(
    path: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE|RUN", help="What `bundle` made, or a folder.", autocompletion=completing.runs),
    ],
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Judge histories and cases again: do the verdicts follow from them?")
    ] = False,
    unpack: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Leave the run there, if everything agrees.")
    ] = None,
    max_size: Annotated[str, typer.Option(metavar="SIZE", help="Refuse a bundle that unpacks to more.")] = "64GiB",
) -> None:
    """Whether a run is whole and unchanged, and with --recheck: whether its verdicts follow from its histories.

    A bundle with links, paths that lead out of it, more octets than it says, or a torn end is refused. Hashes show that files
    are those of the list; who wrote the list, they do not show.
    """
    from brokerproof.checking import memory_bytes
    from brokerproof.verifying import show

    raise typer.Exit(show(path, recheck=recheck, unpack_to=unpack, octets_max=memory_bytes(max_size)))


@app.command(epilog=page("explain"))
def explain(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|DIR",
            autocompletion=completing.runs,
            help="A run folder, a trial's, or one with history.arrow.",
        ),
    ],
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="The number, as reports and findings name it.")],
    trial: Annotated[str, typer.Option(help="The trial, where the number exists in several.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Tells the life of one message: sent, delivered, settled, its effect, the faults, and what the checkers say."""
    from brokerproof.explaining import show

    raise typer.Exit(show(path, message, trial, as_json=as_json))


@app.command(epilog=page("replay"))
def replay(
    path: Annotated[
        Path,
        typer.Argument(metavar="RUN", autocompletion=completing.runs, help="The run folder whose trials are repeated."),
    ],
    trial: Annotated[list[str], typer.Option(help="Trial to repeat, repeatable. Default: all.")] = [],
    targets: Annotated[
        str, typer.Option(help="resolve: find leaders anew; recorded: the nodes of the old run.")
    ] = "resolve",
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the new run. Default: runs/UTC-SEED.")] = None,
) -> None:
    """Runs the recorded plans again: same seed, same messages, same faults at the same offsets.

    The seed repeats the plan, not the interleaving; the history is the evidence.
    """
    from brokerproof.replaying import replay_run

    if targets not in ("resolve", "recorded"):
        raise unknown("value of --targets", targets, ("resolve", "recorded"))
    raise typer.Exit(replay_run(path, trial, recorded_targets=targets == "recorded", run_dir=run_dir))


@app.command(epilog=page("shrink"))
def shrink(
    path: Annotated[
        Path,
        typer.Argument(metavar="RUN", autocompletion=completing.runs, help="The run folder that shows a violation."),
    ],
    cell: Annotated[str, typer.Argument(metavar="[CELL]", help="Its cell or claim, where several show one.")] = "",
    trials: Annotated[int, typer.Option(help="Trials of every smaller plan.")] = 3,
    rate: Annotated[float, typer.Option(help="Share of them that has to show it still.")] = 1.0,
    tries: Annotated[int, typer.Option(help="Smaller plans to try at most.")] = 100,
    out: Annotated[Path | None, typer.Option(help="The plan's file. Default: RUN/shrunk/CELL.json.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the trials. Default: runs/UTC-SEED.")] = None,
) -> None:
    """Makes the plan of a violation as small as it goes: fewer faults, shorter windows, less load; writes it as JSON."""
    from brokerproof.shrinking import shrink_run

    raise typer.Exit(shrink_run(path, cell, trials=trials, rate=rate, tries=tries, out=out, run_dir=run_dir))


@app.command(epilog=page("search"))
def search(
    broker: Annotated[str, typer.Option("--broker", metavar="PRODUCT[=VERSION]", help="Broker to search, e.g. kafka.")],
    select: Annotated[
        list[str],
        typer.Option(help="Promise or section to break, repeatable. Default: all.", autocompletion=completing.claims),
    ] = [],
    arm: Annotated[
        str, typer.Option(help="treatment: what promises; control: the setting that takes the guarantee away.")
    ] = "treatment",
    fault: Annotated[
        list[str],
        typer.Option(
            help="Only these faults, repeatable. Default: all that need no equipment.", autocompletion=completing.faults
        ),
    ] = [],
    budget: Annotated[str, typer.Option(metavar="TIME", help="Ends after 90s, 10m or 1h; shrinking included.")] = "10m",
    schedules: Annotated[int, typer.Option(help="Ends after so many schedules.")] = 500,
    seed: Annotated[int | None, typer.Option(help="Seed of what is drawn. Default: random, and printed.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/UTC-SEED.")] = None,
) -> None:
    """Looks for a schedule of faults that breaks a promise, and makes it small enough to read.

    What it finds is a run folder that holds the plan which `replay` takes.
    """
    from brokerproof.faults.base import faults
    from brokerproof.searching import search_run

    for name in fault:
        if name not in faults():
            raise unknown("fault", name, faults())
    if schedules < 1:
        raise UsageError(f"--schedules {schedules}: expected at least one")
    raise typer.Exit(
        search_run(
            broker,
            select=select,
            arm=arm,
            budget=budget,
            schedules_max=schedules,
            only=fault,
            seed=seed,
            run_dir=run_dir,
        )
    )


@app.command("list", epilog=page("list"))
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="claims, cases, faults, schedules, effects, checkers or brokers.", autocompletion=completing.lists
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Lists what there is: claims, protocol cases, faults, schedules, guards of effects, checkers, brokers."""
    from brokerproof import listing

    listings = {
        "claims": listing.claims, "cases": listing.cases, "faults": listing.faults, "schedules": listing.schedules, "effects": listing.effects, "checkers": listing.checkers, "brokers": listing.brokers,
    }  # fmt: skip
    if what not in listings:
        raise unknown("list", what, listings)
    rows = listings[what]()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    _print_rows(rows)


def _words(items: Sequence[str]) -> str:
    """Side by side; where one has commas of its own, one below the other."""
    return ("\n" if any(", " in item for item in items) else ", ").join(items)


#: Rows with more columns are printed one below the other, and those whose words would have to be broken side by side.
_COLUMNS_MAX = 4


def _print_rows(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    if not rows:
        print("none")
        return
    told = [{k: _words(v) if isinstance(v, (list, tuple)) else str(v) for k, v in row.items()} for row in rows]
    console = Console()
    words = ([column, *(word for row in told for word in row[column].split())] for column in told[0])
    borders = 3 * len(told[0]) + 1
    if len(told[0]) > _COLUMNS_MAX or borders + sum(max(map(len, column)) for column in words) > console.width:
        for row in told:
            name, *_ = row.values()
            console.print(f"[bold]{escape(name)}[/]  {escape(row.get('what', ''))}", highlight=False)
            for column, text in list(row.items())[1:]:
                if text and column != "what":
                    console.print(Padding(f"[dim]{column}:[/] {escape(text)}", (0, 0, 0, 4)), highlight=False)
        return
    table = Table()
    for column in told[0]:
        table.add_column(column, overflow="fold")
    for row in told:
        table.add_row(*row.values())
    console.print(table)


@app.command(epilog=page("doctor"))
def doctor() -> None:
    """Says what is there, what is missing, and the next step."""
    from brokerproof.listing import abilities
    from brokerproof.runtime.doctor import diagnose

    checks = diagnose({"faults": abilities})
    _print_notes([(one.status, one.name, one.seen, one.next_step if one.status != "ok" else "") for one in checks])
    raise typer.Exit(4 if any(one.status == "missing" for one in checks) else 0)


def _print_notes(notes: Sequence[tuple[str, str, str, str]]) -> None:
    """(status, name, what was seen, the next step or "") each."""
    from rich.console import Console

    console = Console()
    look = {"ok": ("✔", "green"), "warning": ("!", "yellow"), "missing": ("✘", "red")}
    for status, name, seen, next_step in notes:
        symbol, style = look[status]
        console.print(f"[{style}]{symbol} {status:<8}[/] [bold]{name}[/]: ", end="", highlight=False)
        console.print(seen, highlight=False, markup=False, soft_wrap=True)
        if next_step:
            console.print(f"             next: {next_step}", highlight=False, markup=False, soft_wrap=True)


@app.command(epilog=page("clean"))
def clean(
    run: Annotated[
        str | None, typer.Argument(help="Only this run, even if it still lives. Default: all dead runs.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    target: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What killed runs left on this target, and nothing else.")
    ] = None,
) -> None:
    """Removes what killed runs left behind: containers, networks, load processes, disks of nodes. Living runs are not touched.

    What a killed run had recorded becomes histories that `check` can read.
    """
    from brokerproof.recorder import rescue
    from brokerproof.runtime import sweep

    if target is not None:
        from brokerproof.targeting import clean as clean_target
        from brokerproof.targeting import loaded

        print("\n".join(clean_target(loaded(target), dry_run=dry_run)) or "nothing to clean")
        return
    if dry_run:
        for item in sweep.leftovers(run):
            print(f"{item.kind} {item.name} of run {item.run}")
        return
    folders = sweep.folders(run)
    gone = sweep.clean(run, progress=print)
    for folder in folders:
        for tapes in sorted(folder.glob("trials/*/tape")):
            try:
                print(f"trial {tapes.parent.name}: {rescue(tapes.parent)}")
            except HistoryError as exc:  # the others are salvaged all the same
                print(f"{exc}; then `brokerproof check {folder}` salvages it")
    print(f"removed {len(gone)} thing{'' if len(gone) == 1 else 's'}" if gone else "nothing to clean")


@app.command(epilog=page("completion"))
def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", autocompletion=completing.shells)],
) -> None:
    """Prints the completion script of a shell: commands, options, and the names of brokers, claims and cases."""
    from brokerproof.completing import script

    print(script(shell), end="")


@target_app.command("init", epilog=page("target init"))
def target_init(
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="Where to write it.")] = Path("target.toml"),
    product: Annotated[str, typer.Option(metavar="PRODUCT", help="rabbitmq, kafka or rocketmq.")] = "rabbitmq",
) -> None:
    """Writes a target file with every key explained, to fill in."""
    from brokerproof.targeting import init

    init(product, path)
    print(f"wrote {path}; fill it in, then `brokerproof target check {path}`")


@target_app.command("check", epilog=page("target check"))
def target_check(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The target file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Connects to a target: version, what it lets us do, how far away it is, which faults can be had, and what not.

    It makes a queue or topic under the prefix, passes a message through it, and removes it again.
    """
    from brokerproof.targeting import loaded, look

    notes = look(loaded(path))
    if as_json:
        told = [{"status": n.status, "name": n.name, "seen": n.seen, "next": n.next_step} for n in notes]
        print(json.dumps(told, indent=1))
    else:
        _print_notes([(n.status, n.name, n.seen, n.next_step) for n in notes])
    raise typer.Exit(4 if any(n.status == "missing" for n in notes) else 0)


@images_app.command("list", epilog=page("images list"))
def images_list() -> None:
    """Lists every image: version, where it comes from, whether it is here."""
    from brokerproof.runtime import images

    _print_rows([dict(row) for row in images.list_images()])


@images_app.command("build", epilog=page("images build"))
def images_build(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PRODUCT[=VERSION]]...", help="Default: all defaults.")
    ] = None,
) -> None:
    """Builds images from packages; what is built already is left alone."""
    from brokerproof.runtime import images

    images.build(names or [], progress=print)


@images_app.command("pull", epilog=page("images pull"))
def images_pull(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PRODUCT[=VERSION]]...", help="Default: all defaults.")
    ] = None,
) -> None:
    """Pulls the official images from their registry."""
    from brokerproof.runtime import images

    images.pull(names or [], progress=print)


if __name__ == "__main__":
    main()
