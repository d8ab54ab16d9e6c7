"""The shaped link: qdisc tree, replay, read-back, restore (pyroute2 lives here and in lab/)."""
