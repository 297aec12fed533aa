"""When bfloat16 is used."""

from __future__ import annotations

import pytest
import torch

from util import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("amp", "speedup", "used"),
    [
        ("off", 4.0, False),
        ("bf16", 4.0, True),
        ("bf16", 0.01, True),
        ("auto", 4.0, True),
        ("auto", 1.1, False),
        ("auto", 0.01, False),
    ],
)
def test_auto_takes_it_where_it_is_faster(amp, speedup, used, monkeypatch, capsys):
    monkeypatch.setattr(precision, "bf16_speedup", lambda: speedup)
    assert precision.use_bf16(amp, CPU) == used
    assert ("100 times slower in bfloat16" in capsys.readouterr().out) == (amp == "bf16" and speedup == 0.01)
