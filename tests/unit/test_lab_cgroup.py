"""CPU limits on hierarchies of both versions, as plain directories; and locked roots."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testbed.lab import cgroup
from testbed.lab.cgroup import Tree
from testbed.lab.sshd import root_is_locked

HERE = sorted(os.sched_getaffinity(0))


@pytest.fixture
def v1(tmp_path: Path) -> Tree:
    for controller in ("cpu", "cpuset"):
        (tmp_path / controller).mkdir()
    (tmp_path / "cpuset" / "cpuset.mems").write_text("0-1\n")
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "proc /proc proc rw 0 0\n"
        f"cgroup {tmp_path}/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n"
        f"cgroup {tmp_path}/cpuset cgroup rw,relatime,cpuset 0 0\n"
    )
    return cgroup.find_tree(mounts)


@pytest.fixture
def v2(tmp_path: Path) -> Tree:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
    (tmp_path / "mounts").write_text(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    return cgroup.find_tree(tmp_path / "mounts")


def test_version_1_gets_quota_and_memory_nodes_in_two_groups(v1: Tree) -> None:
    assert v1.version == 1
    assert v1.switched_off() == ()
    assert cgroup.make(v1, "tb-x-device", 0.25, str(HERE[0])) is None
    cpu, cpuset = v1.groups("tb-x-device")
    assert (cpu / "cpu.cfs_period_us").read_text() == "10000"
    assert (cpu / "cpu.cfs_quota_us").read_text() == "2500"
    assert (cpu / "cpu.shares").read_text() == "262144"
    assert (cpuset / "cpuset.cpus").read_text() == str(HERE[0])
    assert (cpuset / "cpuset.mems").read_text() == "0-1"


def test_version_2_gets_both_in_one_group(v2: Tree) -> None:
    assert v2.version == 2
    assert v2.switched_off() == ("cpuset",)
    assert cgroup.make(v2, "tb-x-device", 0.5, str(HERE[0])) is None
    (group,) = v2.groups("tb-x-device")
    assert (group / "cpu.max").read_text() == "5000 10000"
    assert (group / "cpu.weight").read_text() == "10000"
    assert (group / "cpuset.cpus").read_text() == str(HERE[0])


def test_switching_writes_what_was_off_and_only_that(v2: Tree) -> None:
    control = v2.parents["cpu"] / "cgroup.subtree_control"
    cgroup.switch(v2, "+", v2.switched_off())
    assert control.read_text() == "+cpuset"
    cgroup.switch(v2, "-", ("memory",))
    assert control.read_text() == "+cpuset"


def test_a_hybrid_machine_uses_the_version_that_has_the_controllers(v1: Tree) -> None:
    root = v1.parents["cpu"].parent
    unified = root / "unified"
    unified.mkdir()
    (unified / "cgroup.controllers").write_text("\n")
    mounts = root / "mounts"
    mounts.write_text(mounts.read_text() + f"cgroup2 {unified} cgroup2 rw 0 0\n")
    assert cgroup.find_tree(mounts) == v1


def test_without_cgroups_the_reason_is_said() -> None:
    told = cgroup.make(Tree(1, {}), "tb-x-device", 0.25, str(HERE[0]))
    assert told is not None
    assert "no cpu cgroup is mounted" in told
    assert "no cpuset cgroup is mounted" in told


def test_an_unwritable_cgroup_is_a_reason_not_an_error(v1: Tree) -> None:
    (v1.parents["cpu"] / "tb-x-device").write_text("in the way")
    told = cgroup.make(v1, "tb-x-device", 0.25, None)
    assert told is not None
    assert "cpus 0.25: no limit" in told


def test_a_cpu_that_is_not_here_is_dropped_with_a_reason(v1: Tree) -> None:
    told = cgroup.make(v1, "tb-x-device", 0.25, "4000")
    assert told is not None
    assert "cpuset 4000: not pinned" in told
    assert (v1.parents["cpu"] / "tb-x-device" / "cpu.cfs_quota_us").read_text() == "2500"


def test_a_cpu_list_is_clamped_with_a_reason(v1: Tree) -> None:
    told = cgroup.make(v1, "tb-x-device", None, f"{HERE[0]},4000")
    assert told is not None
    assert f"pinned to {HERE[0]}," in told


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [(0.05, (20_000, 1000)), (0.1, (10_000, 1000)), (0.5, (10_000, 5000)), (2, (10_000, 20_000))],
)
def test_the_period_is_short_and_the_quota_large_enough(
    cpus: float, expected: tuple[int, int]
) -> None:
    assert cgroup.quota(cpus) == expected


def test_cpu_lists() -> None:
    assert cgroup.cpu_list("0,2-4\n") == {0, 2, 3, 4}
    with pytest.raises(ValueError, match="invalid literal"):
        cgroup.cpu_list("0,,2")


@pytest.mark.parametrize(
    ("line", "locked"), [("root:!:1", True), ("root:!*:1", True), ("root:*:1", False)]
)
def test_a_locked_root_is_seen(tmp_path: Path, line: str, locked: bool) -> None:
    shadow = tmp_path / "shadow"
    shadow.write_text(f"daemon:!:1\n{line}\n")
    assert root_is_locked(shadow) is locked
    assert root_is_locked(tmp_path / "none") is False
