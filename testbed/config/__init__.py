"""What a person writes: experiment and inventory files, strict and typed."""

from testbed.config.experiment import Experiment, load_experiment
from testbed.config.host import Host
from testbed.config.inventory import Inventory, load_inventory

__all__ = ["Experiment", "Host", "Inventory", "load_experiment", "load_inventory"]
