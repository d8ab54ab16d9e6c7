"""The virtual lab: a device, a router and a server as network namespaces of this machine.

Real veth links, a real ``sshd`` in each namespace, CPU shares by cgroup. Linux only, as root.
What a lab is made of is written in its journal before it is made, so that it can be removed
whatever happened to whoever made it.
"""

from testbed.lab.attach import attach, the_lab
from testbed.lab.enter import shell
from testbed.lab.lab import Lab, status, unreadable
from testbed.lab.teardown import down, down_all

__all__ = ["Lab", "attach", "down", "down_all", "shell", "status", "the_lab", "unreadable"]
