"""Which function made a table or a verdict: read off the notebook's code."""

import inspect

import pytest

from datalab import metrics
from datalab.report import origins
from datalab.sections import compare, s4_1_main_results

IMPORTS = "from datalab import metrics\nfrom datalab.sections import compare\n"
IMPORTS += "from datalab.sections import s4_1_main_results as s4_1\nfrom datalab.metrics import macro_f1\n"


@pytest.mark.parametrize(
    ("code", "function"),
    [
        ("section.table(s4_1.by_noise(rows), 'by_noise', 'caption')", s4_1_main_results.by_noise),
        ("made = s4_1.cells(rows, rate)\nsection.table(made[made.x > 0], 'cells', 'caption')", s4_1_main_results.cells),
        ("made = s4_1.cells(rows)\nsection.table(compare.paper_shape(made), 'cells', '')", s4_1_main_results.cells),
        ("a, b = (s4_1.headline(rows, v) for v in 'ab')\nsection.table(b, 'headline', '')", s4_1_main_results.headline),
        ("%time 1\n", None),
        ("section.table(pd.DataFrame(rows), 'plain', '')", None),
        ("section.table(compare._hidden(rows), 'hidden', '')", None),
        ("section.table(s4_1.of_an_older_version(rows), 'old', '')", None),
        ("section.table(macro_f1(rows), 'f1', '')", metrics.macro_f1),
        ("section.verdicts(compare.by_set(rows, 'd'))", compare.by_set),
        ("import os\nsection.verdicts(os.getcwd())", None),
        ("from os import getcwd\nsection.verdicts(getcwd())", None),
        ("from datalab import __main__\nsection.verdicts(__main__.main())", None),
    ],
)
def test_a_table_is_of_the_first_function_of_the_package_that_it_or_its_name_is_made_with(code, function) -> None:
    found = origins.origins([IMPORTS, code])
    if function is None:
        assert found == {}
    else:
        line = inspect.getsourcelines(function)[1]
        assert [*found.values()] == [(function.__module__, function.__name__, line)]
        assert (origins.VERDICTS in found) == ("verdicts" in code)
