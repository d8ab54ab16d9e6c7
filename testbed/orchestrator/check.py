"""Is everything fit to run? Every host is asked at once, and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

from testbed import lab
from testbed.config import Experiment, Host, Inventory
from testbed.config.link import link_experiment
from testbed.errors import HostError, TestbedError
from testbed.hosts.address import require_keys
from testbed.hosts.clock import ClockOffset, measure_offset
from testbed.hosts.connection import Connection
from testbed.hosts.deploy import deploy
from testbed.hosts.environment import read_environment
from testbed.hosts.health import judge_clock, judge_health, judge_modules, read_health
from testbed.hosts.launch import module_command
from testbed.hosts.preflight import Finding, judge, shaping_hosts
from testbed.hosts.role import RoleProcess
from testbed.orchestrator.campaign import load_traces
from testbed.orchestrator.link_plan import needs_netem
from testbed.orchestrator.link_proof import prove_link
from testbed.orchestrator.link_session import LinkSession
from testbed.orchestrator.log_folder import log_folder
from testbed.orchestrator.plan import make_schedules

OnStage = Callable[[str], None]
LINK = "link"


def check(
    inventory: Inventory,
    experiment: Experiment | None,
    with_link: bool,
    stage: OnStage,
    lab_id: str | None = None,
) -> list[Finding]:
    """The findings of every host and, if asked, of the link under real traffic."""
    require_keys(inventory.hosts)
    needs = experiment is not None and needs_netem(experiment)
    with _hosts(inventory, stage, lab_id, needs) as (reachable, lab_id):
        stage(f"hosts: {', '.join(reachable.hosts)}")
        shapers = shaping_hosts(reachable.hosts)
        work = {
            name: partial(_check_host, name, host, name in shapers, experiment)
            for name, host in reachable.hosts.items()
        }
        with ThreadPoolExecutor(max_workers=len(work)) as pool:
            futures = [pool.submit(task) for task in work.values()]
        findings = [finding for future in futures for finding in future.result()]
        if with_link and not any(finding.state == "fail" for finding in findings):
            findings += _check_link(inventory, experiment, stage, lab_id)
    return findings


@contextmanager
def _hosts(
    inventory: Inventory, stage: OnStage, lab_id: str | None, needs: bool
) -> Iterator[tuple[Inventory, str | None]]:
    """The hosts' addresses: as written, of the lab that is up, or of a lab made for the check."""
    if inventory.lab is None:
        yield inventory, None
    elif (up := lab.the_lab(lab_id)) is not None:
        yield lab.attach(inventory, up), up
    else:
        stage("lab: namespaces and sshd")
        with lab.Lab.up(inventory, needs_netem=needs, say=stage) as made:
            yield made.inventory, made.lab_id


def _check_host(
    name: str, host: Host, shapes: bool, experiment: Experiment | None
) -> list[Finding]:
    try:
        connection = Connection(name, host)
    except HostError as error:
        fault, _, remedy = str(error).removeprefix(f"{name}: ").partition("; ")
        return [Finding(name, "SSH", "fail", fault, remedy)]
    known = f"as {host.user}, host key as in {host.known_hosts}"
    findings = [Finding(name, "SSH", "pass", known)]
    try:
        with connection:
            findings += _ask(name, connection, shapes, experiment)
    except TestbedError as error:
        remedy = "see the host's log; then check again"
        findings.append(Finding(name, "answers", "fail", str(error), remedy))
    return findings


def _ask(
    name: str, connection: Connection, shapes: bool, experiment: Experiment | None
) -> Iterator[Finding]:
    host = connection.host
    facts = read_environment(connection, sudo=host.sudo)
    yield from judge(name, host, facts, shapes)
    highest_bps = None if experiment is None else _highest_bps(experiment)
    yield from judge_health(name, host, facts, read_health(connection), highest_bps)
    deployed = deploy(connection, {"link"})
    yield judge_clock(name, _clock(connection, deployed))
    if shapes:
        done = connection.run(module_command(host, deployed, "testbed.link.modules"))
        if done.status != 0:
            told = done.stderr.decode(errors="replace").strip().splitlines()
            raise HostError(name, f"kernel: {told[-1] if told else f'status {done.status}'}")
        tried = json.loads(done.stdout.decode().strip().splitlines()[-1])
        yield from judge_modules(name, tried, experiment is not None and needs_netem(experiment))


def _clock(connection: Connection, deployed: str) -> ClockOffset:
    with ExitStack() as stack:
        folder = stack.enter_context(log_folder("check"))
        role = RoleProcess.start(
            connection,
            "prober",
            deployed,
            log=folder / "logs" / "prober.log",
            on_record=lambda role, file, record: None,
        )
        stack.callback(role.close)
        return measure_offset(role)


def _highest_bps(experiment: Experiment) -> int:
    schedules = make_schedules(experiment, load_traces(experiment))
    return max(
        rate
        for sides in schedules.values()
        for schedule in sides.values()
        for _, rate in schedule.changes
    )


def _check_link(
    inventory: Inventory, experiment: Experiment | None, stage: OnStage, lab_id: str | None
) -> Iterator[Finding]:
    """Shape the link, send real traffic over it, put it back."""
    if experiment is None:
        rate = {"rate": "20mbit"}
        experiment = link_experiment({"uplink": rate, "downlink": rate}, {})
    remedy = "run again on a quiet machine; if it stays, the results would not be of this link"
    with ExitStack() as stack:
        folder = stack.enter_context(log_folder("check"))
        session = stack.enter_context(
            LinkSession(experiment, inventory, folder, stage, verifies=True, lab_id=lab_id)
        )
        stage("link: UDP, TCP and round trips over the shaped path")
        checks = prove_link(session)
        session.restore_link()
    for fault in session.link_faults:
        what, _, text = fault.partition(": ")
        yield Finding(LINK, what, "fail", text, remedy)
    for found in checks.values() if not session.link_faults else ():
        for name, measured in found.document["links"].items():
            for side, told in measured["rates"].items():
                levels = ", ".join(f"{level['rate_bps'] / 1e6:.3g}" for level in told)
                text = f"{name}: carried at {levels} Mbit/s, within the bound"
                yield Finding(LINK, side, "pass", text)
            p50_ns = measured["ping"][-1]["p50_ns"]
            text = f"{name}: median {p50_ns / 1e6:.2f} ms, as asked"
            yield Finding(LINK, "round trip", "pass", text)
