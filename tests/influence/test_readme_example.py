"""The README's example of influence scores runs as it is printed, and finds the labels that it made wrong."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_example_runs_and_most_of_what_it_looks_at_first_is_wrong(capsys):
    section = README.read_text(encoding="utf-8").split("## Influence scores by themselves")[1].split("\n## ")[0]
    names = {}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(block, names)
    wrong = int(re.match(r"(\d+) of the 100", capsys.readouterr().out)[1])
    assert wrong > 60  # guessing: 6
    x, y, x_val, y_val, est = (names[name] for name in ("x", "y", "x_val", "y_val", "est"))
    harm = est.influence_on(x, y, x_val, y_val)
    assert harm[:100].mean() > harm[100:1000].mean()  # a wrong label harms, so above 0 is harm
    assert est.leave_one_out(x, y, x_val, y_val)[:100].mean() < 0  # without it the loss falls
