"""What `plan` says besides numbers."""

import pytest

from jobs.commands.plan import precision_note


@pytest.mark.parametrize("name", ["wan", "wan2.2"])
def test_the_cost_of_bfloat16_is_said_where_the_familys_own_code_encodes_in_float32(name: str) -> None:
    assert "bfloat16 changes latents by 1%" in (precision_note(name, "bfloat16") or "")
    assert precision_note(name, "float32") is None
    assert precision_note("cogvideox", "bfloat16") is None
