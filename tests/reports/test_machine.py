import platform
from importlib.metadata import version

from truepair.reports import machine_facts


def test_facts_are_texts_and_name_what_matters():
    facts = machine_facts().facts
    assert facts["Python"] == platform.python_version()
    assert facts["torch"] == version("torch")
    assert all(isinstance(value, str) and value for value in facts.values())
    assert {"Processor", "Accelerator", "System", "truepair", "transformers"} <= facts.keys()
