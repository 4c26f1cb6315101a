"""Figures are files: equal ones have equal bytes."""

import matplotlib
from matplotlib.figure import Figure

from datalab.record import figures

matplotlib.use("agg")


def drawn(scale: float = 1.0) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1, 2], [0, scale, 2], label="a")
    axes.scatter([0, 1], [1, 0])
    axes.legend()
    return figure


def test_equal_figures_have_equal_bytes_and_others_do_not() -> None:
    assert figures.render(drawn(), "x") == figures.render(drawn(), "x")
    assert figures.render(drawn(2.0), "x") != figures.render(drawn(), "x")
    assert b"<dc:date>" not in figures.render(drawn(), "x")["svg"]
