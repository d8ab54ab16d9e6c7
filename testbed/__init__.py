"""A testbed for dynamic split computing on real hosts.

Data goes one way::

    experiment.yaml ─┐
                     ├─► config ─► plan ─► hosts ─┬─ link     (router: shape and replay the trace)
    inventory.yaml ──┘   (typed)   (pure)  (SSH)  ├─ load     (server: synthetic load)
                                                  ├─ server   (tail)
                                                  └─ device   (policy, head)
                                                        │
                report ◄─ figures ◄─ metrics ◄─ dataset ◄─ records (one folder a run, never edited)

Rooms: ``cli`` (the only place that prints and exits), ``config`` (what a person writes),
``traces``, ``model``, ``policy``, ``link``, ``worker``, ``hosts``, ``lab``, ``orchestrator``;
``control`` is the roles' protocol, ``framing`` what a payload weighs on the link, ``records``
what a run leaves behind. ``analysis/`` reads the records and never opens a connection.
"""

__version__ = "0.1.0"
