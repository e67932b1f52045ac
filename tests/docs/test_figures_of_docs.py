"""The figures of the documentation read the curves that stand in results/."""

import sys

from documents import ROOT


def test_the_curves_are_those_of_the_table(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "figures"))
    try:
        import curves

        found = curves.read_curves()
        # The accuracy at T = 32 and the quantized network at T = 8, from the table.
        assert found["if_channel", "accuracy"][5] == 89.6
        assert found["signed1_channel", "accuracy"][5] == 91.5
        assert found["signed1_channel", "quantized"][3] == 88.0
        assert curves.ann_accuracy() == 91.8
    finally:
        sys.modules.pop("curves", None)
