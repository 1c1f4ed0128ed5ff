"""What ``--help`` says of a command beyond its options, as a manual page does: examples, exit codes, environment, files.

One table for all commands, so that a word means the same wherever it stands; a self-test holds every command to an entry,
every example to options that exist, and every variable that the code reads to a line here.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from brokerproof import __version__

#: Exit codes of whatever decides something (fixed).
DECIDES = {
    0: "all as expected", 1: "an unexpected verdict", 2: "wrong usage", 3: "evidence missing: UNKNOWN, or INCONCLUSIVE",
    4: "the harness or its environment failed",
}  # fmt: skip
#: Of whatever only shows or makes something.
SHOWS = {0: "done", 2: "wrong usage", 4: "it failed, and the message says why"}

IMAGES = {"BROKERPROOF_IMAGES": "auto (a registry, else build), build (never ask a registry) or pull"}
STATE = {"BROKERPROOF_STATE": "folder of what living runs own; default: the user's state folder"}
DOCKER = {"DOCKER_HOST": "the container engine, as Docker's own tools read it"}
TOXIPROXY = {"BROKERPROOF_TOXIPROXY": "program of a Toxiproxy in front of a target; default: toxiproxy-server"}
CI = {
    "GITHUB_ACTIONS, GITLAB_CI": "which annotations are written where --annotations does not say",
    "GITHUB_STEP_SUMMARY": "file that the summary is added to where --summary does not say",
}

RUN_FOLDER = {
    "runs/<utc>-<seed>/": "the run: results.json, junit.xml, summary.md, report/index.html, trials/, conformance/",
}
EXPECTED = {
    "<product>-<version>.toml": "expected verdicts, one [[cell]] or [[case]] each with its measured reason",
}


@dataclass(frozen=True, slots=True)
class Page:
    """Of one command. exits: code -> what it means. environment, files: name -> what it is for."""

    examples: tuple[str, ...]
    exits: Mapping[int, str] = field(default_factory=lambda: SHOWS)
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


PAGES: Mapping[str, Page] = {
    "run": Page(
        (
            "brokerproof run --broker memory=doubles",
            "brokerproof run --broker rabbitmq=4.0.5 --select order --profile standard --seed 7",
            "brokerproof run --resume runs/20261122T101500Z-7",
            "brokerproof run --target mine.toml --dry-run",
            "brokerproof run --target mine.toml --select order --profile standard",
        ),
        DECIDES, IMAGES | STATE | DOCKER | TOXIPROXY, RUN_FOLDER | EXPECTED,
    ),
    "conformance": Page(
        (
            "brokerproof conformance --broker rabbitmq=4.0.5",
            "brokerproof conformance --broker kafka --section K2 --level must --strict",
            "brokerproof conformance --list --section A2",
            "brokerproof conformance --target mine.toml --dry-run",
            "brokerproof conformance --target mine.toml --section A6",
        ),
        DECIDES, IMAGES | STATE | DOCKER, RUN_FOLDER | EXPECTED,
    ),
    "gate": Page(
        (
            "brokerproof gate runs/20261122T101500Z-7",
            "brokerproof gate runs/20261122T101500Z-7 --expected ci/expected.toml",
            "brokerproof gate runs/new --baseline runs/old --annotations github",
            "brokerproof gate runs/20261122T101500Z-7 --expected ci/expected.toml --write",
        ),
        {
            0: "nothing new", 1: "a new violation, an unexpected pass, a changed count, or worse than the baseline",
            2: "wrong usage", 3: "evidence missing: UNKNOWN, or INCONCLUSIVE", 4: "the run itself failed, was interrupted, or decided nothing",
        },
        CI, EXPECTED | {"RUN/results.json": "what is judged; nothing in the run is changed"},
    ),
    "bundle": Page(
        ("brokerproof bundle runs/20261122T101500Z-7", "brokerproof bundle runs/20261122T101500Z-7 --out mine.tar.gz",
         "brokerproof bundle runs/20261122T101500Z-7 --redacted published"),
        SHOWS, {}, {"<run>.tar.zst": "one folder, with bundle.json: size, SHA-256 and redactions of each file"},
    ),
    "verify": Page(
        (
            "brokerproof verify 20261122T101500Z-7.tar.zst",
            "brokerproof verify 20261122T101500Z-7.tar.zst --recheck",
            "brokerproof verify 20261122T101500Z-7.tar.zst --unpack runs",
            "brokerproof verify runs/20261122T101500Z-7",
        ),
        {
            0: "everything agrees", 1: "something does not, or the bundle is damaged or hostile", 2: "wrong usage",
            4: "it could not be looked at: no room, no access",
        },
        {"TMPDIR": "where a bundle is unpacked while it is looked at; as much room as the run took"},
        {"bundle.json": "the list that a bundle, or a folder unpacked from one, is compared with"},
    ),
    "compare": Page(
        ("brokerproof compare runs/* --out site/", "brokerproof compare runs/monday runs/tuesday --out site/"),
        SHOWS, {}, {"site/index.html": "where to begin; opens from disk", "site/data": "what the pages load when they need it"},
    ),
    "check": Page(
        (
            "brokerproof check runs/20261122T101500Z-7", "brokerproof check runs/20261122T101500Z-7 --replace",
            "brokerproof check some-folder --json --memory-limit 1GiB",
        ),
        DECIDES | {1: "an unexpected verdict; of a single history: anomalies"}, {},
        {
            "history.arrow": "what is judged", "RUN/rechecks/<tool version>/results.json": "what came out",
        },
    ),
    "explain": Page(("brokerproof explain runs/20261122T101500Z-7 417", "brokerproof explain DIR 417 --json"), SHOWS),
    "replay": Page(
        ("brokerproof replay runs/20261122T101500Z-7", "brokerproof replay runs/20261122T101500Z-7 --targets recorded"),
        DECIDES | {0: "the same anomalies as before", 1: "others than before"}, IMAGES | STATE | DOCKER, RUN_FOLDER,
    ),
    "shrink": Page(
        ("brokerproof shrink runs/20261122T101500Z-7 order/one-queue-one-consumer --tries 30",),
        SHOWS | {3: "the violation did not show again, so there is nothing to make smaller"}, IMAGES | STATE | DOCKER,
        {"RUN/shrunk/<cell>.json": "the smallest plan that still shows it"},
    ),
    "search": Page(
        (
            "brokerproof search --broker memory=acks-early --budget 30s",
            "brokerproof search --broker kafka --select producer/kafka-acks-all --arm control --budget 5m",
        ),
        {0: "nothing found within the budget", 1: "found", 2: "wrong usage", 3: "nothing could be said of any schedule",
         4: "the harness or its environment failed"},
        IMAGES | STATE | DOCKER, RUN_FOLDER,
    ),
    "list": Page(("brokerproof list claims", "brokerproof list cases --json", "brokerproof list faults")),
    "doctor": Page(
        ("brokerproof doctor",), {0: "nothing that is needed is missing", 4: "something is"}, DOCKER | STATE | IMAGES
    ),
    "clean": Page(
        (
            "brokerproof clean --dry-run", "brokerproof clean", "brokerproof clean 20261122T101500Z-7",
            "brokerproof clean --target mine.toml",
        ),
        SHOWS, STATE | DOCKER,
    ),
    "target init": Page(("brokerproof target init --product rabbitmq mine.toml",), SHOWS),
    "target check": Page(
        ("brokerproof target check mine.toml", "brokerproof target check mine.toml --json"),
        {0: "it can be used", 2: "wrong usage", 4: "something is missing, and the next step stands beside it"},
        DOCKER | TOXIPROXY,
    ),
    "images list": Page(("brokerproof images list",), SHOWS, DOCKER),
    "images build": Page(("brokerproof images build", "brokerproof images build rabbitmq=3.10.8"), SHOWS, IMAGES | DOCKER),
    "images pull": Page(("brokerproof images pull kafka=4.3.1",), SHOWS, DOCKER),
    "completion": Page(
        (
            "brokerproof completion bash > ~/.local/share/bash-completion/completions/brokerproof",
            "brokerproof completion zsh > ~/.zfunc/_brokerproof",
            "brokerproof completion fish > ~/.config/fish/completions/brokerproof.fish",
        ),
    ),
}  # fmt: skip


def page(command: str) -> str:
    """The end of the command's ``--help``, as Markdown; empty for a command that has no page."""
    known = PAGES.get(command)
    if known is None:
        return ""
    parts = [("Examples", [f"`{example}`" for example in known.examples])]
    parts += [("Exit codes", [f"{code}  {what}" for code, what in sorted(known.exits.items())])]
    for title, lines in (("Environment", known.environment), ("Files", known.files)):
        parts += [(title, [f"`{name}`  {what}" for name, what in lines.items()])] if lines else []
    # A paragraph each: the help's own renderer makes one line of what only a line break parts.
    return "\n\n".join(f"**{title}**\n\n" + "\n\n".join(f"- {line}" for line in lines) for title, lines in parts)


#: Whose versions a report of a problem needs: what speaks to the brokers, and what reads histories.
_LIBRARIES = ("pika", "confluent-kafka", "rocketmq-python-client", "docker", "pyarrow", "numpy", "pytest")


def version() -> str:
    """What ``--version`` prints: the tool first, in a line of its own, then what its answers depend on."""
    from brokerproof.results import SCHEMA
    from brokerproof.suites import suites

    lines = [
        f"brokerproof {__version__}",
        f"suites     {__version__}, {suites()}",
        f"results    schema {SCHEMA}",
        f"python     {platform.python_version()} on {platform.system()} {platform.release()} {platform.machine()}",
    ]
    return "\n".join(
        [*lines, *(f"{'with' if not n else '':<10} {_version_of(name)}" for n, name in enumerate(_LIBRARIES))]
    )


def _version_of(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name}: not installed"
