"""Figures are files: equal ones have equal bytes."""

import re

import matplotlib
from matplotlib.figure import Figure

from datalab.record import figures

matplotlib.use("agg")


def drawn(scale: float = 1.0) -> Figure:
    figures.style()
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


def test_a_drawing_has_its_places_to_a_hundredth_and_its_words_as_they_are() -> None:
    figure = drawn()
    figure.axes[0].set_title("0.123456 of 1.000001")
    drawing = figures.render(figure, "x")["svg"].decode()
    assert "0.123456 of 1.000001" in drawing
    places = re.findall(r' (?:d|x|y)="([^"]*)"', drawing)
    assert len(places) > 20
    assert not [place for place in places if re.search(r"\.\d{3}", place)]
    assert set(re.findall(r"font-family: ([^;]*);", drawing)) == {"'DejaVu Sans', sans-serif"}
