"""Tags follow content, what is there is not built again, and a build that fails says why; none of it needs an engine."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import urllib3.exceptions

from brokerproof.errors import EnvironmentProblem, UsageError
from brokerproof.runtime import building, engine, images, jobs, recipes, registry, rootfs
from brokerproof.runtime.equipment import fsync_void
from brokerproof.runtime.node import LABEL_OWNER, LABEL_RUN


class Engine:
    """An engine in memory: images by tag, builds that succeed or print ``log`` and fail, pulls that work or do not."""

    def __init__(self, registry: bool = False) -> None:
        self.tags: dict[str, SimpleNamespace] = {}
        self.built: list[str] = []
        self.contexts: dict[str, dict[str, bytes]] = {}
        self.pulled: list[str] = []
        self.pruned: list[str] = []
        self.labelled: list[dict[str, str]] = []
        self.broken: dict[str, list[str]] = {}
        self.package: dict[str, str] = {}
        self.registry = registry
        self._lock = threading.Lock()
        self.removed: list[str] = []
        self.images = SimpleNamespace(get=self._get, list=self._list, prune=self._prune, remove=self.removed.append)
        self.api = SimpleNamespace(build=self._build, pull=self._pull, inspect_distribution=self._inspect)
        self.containers = SimpleNamespace(create=self._create)

    def close(self) -> None:
        pass

    def add(self, tag: str, **labels: str) -> None:
        self.tags[tag] = SimpleNamespace(id=f"sha256:{tag}", tags=[tag], labels=labels, attrs={"Size": 5_000_000})

    def _get(self, tag: str) -> Any:
        if tag not in self.tags:
            raise docker.errors.ImageNotFound(tag)
        return self.tags[tag]

    def _list(self) -> list[Any]:
        return list(self.tags.values())

    def _prune(self, filters: dict[str, Any]) -> None:
        assert filters["dangling"] is True
        self.pruned.append(filters["label"])

    def _inspect(self, tag: str) -> None:
        if not self.registry:
            raise docker.errors.APIError("no route to it")

    def _pull(self, tag: str, **_: Any) -> Iterator[dict[str, str]]:
        self.pulled.append(tag)
        if tag in self.broken:
            yield {"error": self.broken[tag][0]}
            return
        yield {"status": "done"}
        self.add(tag)

    def _build(self, *, fileobj: io.BytesIO, buildargs: dict[str, str], tag: str | None, **_: Any) -> Iterator[Any]:
        with tarfile.open(fileobj=fileobj) as archive:
            files = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]
        if tag is not None:  # the second step: a label
            package = files["Dockerfile"].decode().rsplit("=", 1)[1].strip()
            with self._lock:
                self.add(tag, **{recipes.LABEL_PACKAGE: package})
            yield {"aux": {"ID": f"sha256:{tag}"}}
            return
        product = buildargs["KEY"].split("/")[1].split(":")[0]
        with self._lock:
            self.built.append(product)
            self.contexts[product] = files
        if product in self.broken:
            yield from ({"stream": line + "\n"} for line in self.broken[product])
            yield {"error": "The command '/bin/sh -c apt-get' returned a non-zero code: 100"}
            return
        yield {"stream": "Step 1/1\n"}
        yield {"aux": {"ID": f"{product} {buildargs['VERSION']}"}}

    def _create(self, image_id: str, command: list[str], labels: dict[str, str]) -> Any:
        self.labelled.append(labels)
        product, version = image_id.split()
        package = self.package.get(product, {"jre": "17.0.1", "base": "12"}.get(product, f"{version}-1"))
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w") as archive:
            entry = tarfile.TarInfo("package")
            entry.size = len(package)
            archive.addfile(entry, io.BytesIO(package.encode()))
        return SimpleNamespace(get_archive=lambda path: ([target.getvalue()], {}), remove=lambda force: None)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Engine]:
    fake = Engine()
    for suite in ("bookworm", "trixie"):
        fake.add(f"brokerproof/rootfs:{suite}")
    monkeypatch.setattr(engine, "connect", lambda **_: fake)
    monkeypatch.setattr(engine, "state_folder", lambda: tmp_path)
    monkeypatch.delenv("BROKERPROOF_IMAGES", raising=False)
    registry._probe.cache_clear()
    yield fake
    registry._probe.cache_clear()


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the Dockerfiles that a test may change."""
    for path in recipes._DOCKERFILES.rglob("*"):
        target = tmp_path / "dockerfiles" / path.relative_to(recipes._DOCKERFILES)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    monkeypatch.setattr(recipes, "_DOCKERFILES", tmp_path / "dockerfiles")
    return tmp_path / "dockerfiles"


def tags() -> dict[str, str]:
    return {f"{p} {v}": recipes.recipe_for(p, v).tag for p, versions in recipes.VERSIONS.items() for v in versions}


# -- content-addressed tags --------------------------------------------------------------------------------------------


def test_every_known_version_has_a_tag_of_its_own_that_names_it() -> None:
    for name, tag in tags().items():
        product, version = name.split()
        prefix, _, digest = tag.rpartition("-")
        assert prefix == f"brokerproof/{product}:{version}"
        assert len(digest) == 12 and set(digest) <= set("0123456789abcdef")
    assert len(set(tags().values())) == len(tags())


def test_defaults_are_known_versions() -> None:
    assert all(version in recipes.VERSIONS[product] for product, version in recipes.DEFAULTS.items())


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("side/Dockerfile", {"side 1"}),
        ("rabbitmq/docker-entrypoint.sh", {"rabbitmq 4.0.5", "rabbitmq 3.10.8", "rabbitmq 3.8.9"}),
        ("kafka/pom.xml", {"kafka 4.3.1", "kafka 3.9.2"}),
        ("jre/Dockerfile", {"kafka 4.3.1", "kafka 3.9.2", "rocketmq 5.5.0", "rocketmq 5.3.3"}),
        ("_stage/fetch-jars.sh", {"kafka 4.3.1", "kafka 3.9.2", "rocketmq 5.5.0", "rocketmq 5.3.3"}),
    ],
)
def test_one_byte_changes_the_tags_of_what_is_made_from_it_and_no_other(
    copied: Path, file: str, changed: set[str]
) -> None:
    before = tags()
    with (copied / file).open("ab") as target:
        target.write(b"\n")
    after = tags()
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_change_of_the_base_changes_everything(copied: Path) -> None:
    before = tags()
    (copied / "base" / "Dockerfile").write_text("FROM scratch\n")
    assert not set(before.values()) & set(tags().values())


def test_the_hosts_certificates_are_given_to_stages_and_are_no_part_of_the_tag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = tags()
    bundle = tmp_path / "ca.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\nof this host\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with tarfile.open(fileobj=recipes.context("kafka")) as archive:
        member = archive.extractfile("ca-bundle.crt")
        assert member is not None and b"of this host" in member.read()
    with tarfile.open(fileobj=recipes.context("rabbitmq")) as archive:
        assert "ca-bundle.crt" not in archive.getnames()
    assert tags() == before


def test_certificates_are_copied_in_build_stages_only() -> None:
    for dockerfile in recipes._DOCKERFILES.glob("*/Dockerfile"):
        final = dockerfile.read_text().rpartition("\nFROM ")[2]
        assert "ca-bundle" not in final, dockerfile


def test_every_build_stage_is_labelled_so_that_it_can_be_removed() -> None:
    for dockerfile in recipes._DOCKERFILES.glob("*/Dockerfile"):
        stages = dockerfile.read_text().split("\nFROM ")[1:-1]
        for stage in stages:
            assert "LABEL brokerproof.stage=${KEY}" in stage, dockerfile


def test_the_same_files_make_the_same_archive_and_scripts_are_executable() -> None:
    assert recipes.context("rabbitmq").read() == recipes.context("rabbitmq").read()
    with tarfile.open(fileobj=recipes.context("rabbitmq")) as archive:
        assert archive.getmember("docker-entrypoint.sh").mode == 0o755
        assert archive.getmember("Dockerfile").mode == 0o644


# -- choosing ----------------------------------------------------------------------------------------------------------


def test_what_is_there_is_used_and_nothing_is_built(fake: Engine) -> None:
    tag = recipes.recipe_for("kafka", "4.3.1").tag
    fake.add(tag, **{recipes.LABEL_PACKAGE: "4.3.1"})
    ref = images.ensure("kafka")
    assert (ref.tag, ref.origin, ref.package, ref.image_id) == (tag, "local", "4.3.1", f"sha256:{tag}")
    assert fake.built == fake.pulled == []


def test_without_a_registry_it_is_built_after_its_parents_and_the_second_call_builds_nothing(fake: Engine) -> None:
    ref = images.ensure("kafka", "4.3.1")
    assert fake.built == ["base", "jre", "kafka"]
    assert (ref.origin, ref.package) == ("built", "4.3.1-1")
    assert images.ensure("kafka", "4.3.1").origin == "local"
    assert fake.built == ["base", "jre", "kafka"]


def test_what_a_kill_in_the_middle_of_a_build_leaves_says_whose_it_is(fake: Engine) -> None:
    """The container that a new image is looked into with is never started, and would lie there for ever."""
    images.ensure("kafka", "4.3.1", progress=lambda _: None)
    assert len(fake.labelled) == 3
    for labels in fake.labelled:
        assert labels[LABEL_RUN] == f"probe-{os.getpid()}" and f" {os.getpid()} " in labels[LABEL_OWNER]


def test_a_registry_that_answers_is_asked_for_the_pinned_version(fake: Engine) -> None:
    fake.registry = True
    ref = images.ensure("kafka", "3.9.2")
    assert (ref.tag, ref.origin) == ("apache/kafka:3.9.2", "official")
    assert fake.pulled == ["apache/kafka:3.9.2"]
    assert images.ensure("kafka", "3.9.2").origin == "official"
    assert fake.pulled == ["apache/kafka:3.9.2"]


def test_a_version_without_a_package_can_be_had_from_a_registry_only(fake: Engine) -> None:
    with pytest.raises(UsageError, match=r"rabbitmq '4\.1\.0': no package of that version.*need a registry"):
        images.ensure("rabbitmq", "4.1.0")
    registry._probe.cache_clear()
    fake.registry = True
    assert images.ensure("rabbitmq", "4.1.0").tag == "rabbitmq:4.1.0"


def test_a_pull_that_fails_falls_back_to_a_build_and_says_so(fake: Engine) -> None:
    fake.registry = True
    fake.broken["apache/rocketmq:5.5.0"] = ["manifest unknown"]
    said: list[str] = []
    assert images.ensure("rocketmq", progress=said.append).origin == "built"
    assert any("manifest unknown; building it instead" in line for line in said)


def test_build_mode_never_asks_a_registry(fake: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.registry = True
    monkeypatch.setenv("BROKERPROOF_IMAGES", "build")
    assert images.ensure("kafka").origin == "built"
    assert fake.pulled == []


def test_pull_mode_builds_no_broker(fake: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.broken["apache/kafka:4.3.1"] = ["no such host"]
    monkeypatch.setenv("BROKERPROOF_IMAGES", "pull")
    with pytest.raises(EnvironmentProblem, match=r"pulling apache/kafka:4\.3\.1: the registry says: no such host"):
        images.ensure("kafka")
    assert fake.built == []
    assert images.ensure("side").origin == "built"


@pytest.mark.parametrize(
    ("mode", "answers", "there", "theirs"),
    [
        ("auto", False, "", False), ("auto", True, "", True), ("auto", True, "built", False),
        ("auto", False, "official", True), ("build", True, "official", False), ("pull", False, "built", True),
    ],
)  # fmt: skip
def test_whose_image_it_would_be_is_known_before_it_is_got(
    mode: str, answers: bool, there: str, theirs: bool, fake: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKERPROOF_IMAGES", mode)
    fake.registry = answers
    tags = {"built": recipes.recipe_for("kafka", "4.3.1").tag, "official": "apache/kafka:4.3.1"}
    if there:
        fake.add(tags[there])
    assert images.would_be_official("kafka") is theirs
    assert fake.built == fake.pulled == []
    # Only what is built here has the library that makes syncs void.
    assert ("kafka" in fsync_void.KIND.missing()) is theirs
    assert not images.would_be_official("toxiproxy")


def test_what_has_no_official_image_cannot_be_pulled(fake: Engine) -> None:
    with pytest.raises(UsageError, match=r"pulling toxiproxy .*: it has no official image.*images build toxiproxy"):
        images.pull(["toxiproxy"])
    assert [ref.tag for ref in images.pull()] == ["rabbitmq:4.0.5", "apache/kafka:4.3.1", "apache/rocketmq:5.5.0"]


def test_a_wrong_mode_and_a_wrong_product_are_usage_errors(fake: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown image 'kafak'; .*did you mean 'kafka'"):
        images.ensure("kafak")
    monkeypatch.setenv("BROKERPROOF_IMAGES", "never")
    with pytest.raises(UsageError, match="BROKERPROOF_IMAGES is 'never': expected auto, build or pull"):
        images.ensure("kafka")


# -- building ----------------------------------------------------------------------------------------------------------


def test_a_failed_build_quotes_the_last_twenty_lines_and_the_next_step(fake: Engine) -> None:
    fake.broken["side"] = [f"\x1b[91mline {i}\x1b[0m" for i in range(100)]
    with pytest.raises(EnvironmentProblem) as caught:
        images.ensure("side")
    text = str(caught.value)
    assert text.startswith(
        "building side 1: The command '/bin/sh -c apt-get' returned a non-zero code: 100; the last lines"
    )
    assert "line 80\n" in text and "line 99\n" in text and "line 79" not in text
    assert "next: " in text


def test_stages_are_removed_after_success_and_after_failure_and_only_this_builds(fake: Engine) -> None:
    images.ensure("toxiproxy")
    fake.broken["kafka"] = ["maven: attempt 3 failed"]
    with pytest.raises(EnvironmentProblem):
        images.ensure("kafka")
    for product in ("toxiproxy", "kafka"):
        tag = recipes.recipe_for(product, recipes.DEFAULTS[product]).tag
        assert f"brokerproof.stage={tag}" in fake.pruned


def test_a_package_of_another_version_is_not_passed_off_as_the_one_asked_for(fake: Engine) -> None:
    fake.package["rabbitmq"] = "4.1.3-1"
    with pytest.raises(
        EnvironmentProblem, match=r"expected the package index to have '4\.0\.5', got '4\.1\.3-1'; next"
    ):
        images.ensure("rabbitmq")
    assert recipes.recipe_for("rabbitmq", "4.0.5").tag not in fake.tags
    assert fake.removed == ["rabbitmq 4.0.5"]


def test_an_engine_that_falls_silent_is_an_error_with_the_log_so_far(
    fake: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(**_: Any) -> Iterator[dict[str, str]]:
        yield {"stream": "Step 1/9 : FROM somewhere\n"}
        raise urllib3.exceptions.ReadTimeoutError(None, "", "Read timed out.")  # type: ignore[arg-type]

    monkeypatch.setattr(fake.api, "build", silent)
    with pytest.raises(
        EnvironmentProblem, match=r"building base trixie: .*Read timed out(.|\n)*Step 1/9 : FROM somewhere"
    ):
        images.ensure("side")


def test_a_build_that_takes_too_long_is_cut_off(fake: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "JOB_TIMEOUT_S", -1)
    with pytest.raises(EnvironmentProblem, match=r"building base trixie: not done after -1 s"):
        building.build(fake, recipes.recipe_for("base", "trixie"), images._quiet)  # type: ignore[arg-type]


def test_several_at_once_share_their_parents(fake: Engine) -> None:
    refs = images.build()
    assert [ref.product for ref in refs] == list(recipes.DEFAULTS)
    assert sorted(fake.built) == sorted(["base", "base", "jre", *recipes.DEFAULTS])


def test_one_failure_does_not_keep_the_others_from_being_built(fake: Engine) -> None:
    fake.broken["rabbitmq"] = ["no"]
    with pytest.raises(EnvironmentProblem, match=r"building rabbitmq 4\.0\.5"):
        images.ensure_all()
    assert {ref.origin for ref in images.ensure_all(["kafka", "rocketmq", "toxiproxy", "side"])} == {"local"}


def test_two_callers_build_an_image_once(fake: Engine) -> None:
    threads = [threading.Thread(target=images.ensure, args=("side",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake.built.count("side") == 1


def test_the_root_file_system_needs_root_or_a_registry(fake: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.tags.clear()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EnvironmentProblem, match=r"no registry answers, and debootstrap needs root; next: run"):
        images.ensure("side")
    registry._probe.cache_clear()
    fake.registry = True
    images.ensure("side")
    assert fake.pulled == ["debian:trixie-slim"]


def test_what_takes_longer_than_two_seconds_is_told_with_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    said: list[str] = []
    ticks = jobs.Ticks("building side 1", said.append)
    for elapsed in (0.5, 1.9, 2.1, 5.0, 9.9, 10.3, 12.0, 31.0):
        now[0] = 100.0 + elapsed
        ticks.tell()
    assert said == ["building side 1: 2 s", "building side 1: 10 s", "building side 1: 31 s"]


def test_scratch_folders_of_the_dead_are_removed_and_those_of_the_living_are_not() -> None:
    prefix = f"brokerproof-selftest-{time.monotonic_ns()}-"
    with rootfs._scratch_folder(prefix) as living:
        dead = living.with_name(prefix + "dead")
        dead.mkdir()
        with rootfs._scratch_folder(prefix) as other:
            assert living.is_dir() and other.is_dir()
            assert not dead.exists()
        assert not other.exists()
    assert not living.exists()


# -- listing -----------------------------------------------------------------------------------------------------------


def test_the_list_has_what_is_there_what_is_not_and_what_is_of_other_files(fake: Engine) -> None:
    tag = recipes.recipe_for("kafka", "4.3.1").tag
    fake.add(tag, **{recipes.LABEL_PACKAGE: "4.3.1"})
    fake.add("rabbitmq:4.0.5")
    old = {recipes.LABEL_IMAGE: "1", recipes.LABEL_PRODUCT: "side", recipes.LABEL_VERSION: "1"}
    fake.add("brokerproof/side:1-000000000000", **old)
    fake.add("somebody/else:1")
    rows = {row["tag"]: row for row in images.list_images()}
    assert rows[tag]["size_mb"] == 5 and rows[tag]["package"] == "4.3.1" and rows[tag]["default"] is True
    assert rows["rabbitmq:4.0.5"]["product"] == "rabbitmq"
    assert rows[recipes.recipe_for("kafka", "3.9.2").tag]["image_id"] == ""
    assert "brokerproof/side:1-000000000000" in rows
    assert "somebody/else:1" not in rows


def test_main_ends_with_the_exit_code_of_the_error_and_no_traceback(
    fake: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert images.main(["side"]) == 0
    assert "image brokerproof/side:1-" in capsys.readouterr().out
    fake.broken["kafka"] = ["no"]
    assert images.main(["kafka"]) == 4
    assert capsys.readouterr().err.startswith("brokerproof: building kafka 4.3.1")
    assert images.main(["kafak"]) == 2
