"""One link outside any experiment, from what a person types on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from testbed.config.document import parse_yaml
from testbed.config.experiment import Experiment
from testbed.config.fields import explain
from testbed.errors import UserError


def parse_direction(side: str, text: str) -> dict[str, Any]:
    """``20mbit``, or a mapping as an experiment has it: ``{rate: 20mbit, queue: 100kB}``."""
    spec = parse_yaml(side, text)
    return spec if isinstance(spec, dict) else {"rate": spec}


def link_experiment(directions: Mapping[str, Any], settings: Mapping[str, Any]) -> Experiment:
    """An experiment that is nothing but one link; raises UserError naming every fault."""
    try:
        return Experiment.model_validate(
            {
                "name": "link",
                "model": {"name": "none"},
                "policies": ["local"],
                "links": {"link": {**directions, **settings}},
            }
        )
    except ValidationError as error:
        raise UserError(explain(error, below=2)) from error
