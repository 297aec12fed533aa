"""In which precision --amp computes."""

from __future__ import annotations

import pytest
import torch

from util.run import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("amp", "speedup", "used"),
    [
        ("off", 4.0, None),
        ("bf16", 4.0, torch.bfloat16),
        ("bf16", 0.01, torch.bfloat16),
        ("auto", 4.0, torch.bfloat16),
        ("auto", 1.1, None),
        ("auto", 0.01, None),
        ("fp16", 0.01, torch.float16),
    ],
)
def test_auto_takes_it_where_it_is_faster(amp, speedup, used, monkeypatch, capsys):
    monkeypatch.setattr(precision, "cpu_speedup", lambda _: speedup)
    assert precision.amp_dtype(amp, CPU) == used
    told = f"--amp {amp}: this CPU multiplies 100 times slower in {amp}"
    assert (told in capsys.readouterr().out) == (amp in ("bf16", "fp16") and speedup == 0.01)
