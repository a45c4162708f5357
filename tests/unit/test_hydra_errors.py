"""Errors of Hydra's and OmegaConf's in our words."""

from mpt.errors import ConfigurationError
from mpt.hydra_errors import explain


def test_an_error_that_is_its_own_cause_is_explained():
    """OmegaConf raises such ones where a debugger or a tracer is at work."""
    error = ValueError("no value")
    error.__cause__ = error
    assert isinstance(explain(error, [], []), ConfigurationError)


def test_what_our_own_code_refused_is_found_below_another_error():
    refused = ConfigurationError("not that", where="model")
    middle, outer = KeyError("x"), ValueError("y")
    middle.__context__, outer.__cause__ = refused, middle
    assert explain(outer, [], []) is refused
