"""What a reader takes away, from the README and from what notebooks 0, 6 and 7 show, against the record's tables.

Two kinds of statement are read: a figure with its interval, ``3.6 % [0.9, 7.7]``, which some table must hold; and a
sentence of a known form, which a rule below holds against the table it is about. A notebook that is added to
``DOCUMENTS`` is read alike.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from datalab import ledger
from datalab.protocol import protocol
from datalab.record.checks import tablediff
from datalab.sections import s6_verdicts as s6

PROJECT = Path(__file__).resolve().parents[1]
RECORD = PROJECT / "runs" / "reference"
DOCUMENTS = ("0_title_noise_threshold", "6_verdicts", "7_when_to_prune")
NUMBER = r"[-+−]?\d+(?:\.\d+)?"
FIGURE = re.compile(rf"(?<![A-Za-z\d.])({NUMBER}) ?%?(?:[^.\[\]\n]{{0,60}}interval)? \[({NUMBER}), ({NUMBER})\]")
WORDS = {"refuted": ledger.OPPOSITE, "reproduced": ledger.REPRODUCED, "inconclusive": ledger.INCONCLUSIVE}


def documents() -> dict[str, str]:
    """The text of the README's first part, and of what each notebook of the record shows."""
    texts = {"README": (PROJECT / "README.md").read_text(encoding="utf-8").split("## Two commands")[0]}
    for stem in DOCUMENTS:
        path = RECORD / "notebooks" / f"{stem}.ipynb"
        if path.exists():
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
            parts = [kind.get("text/markdown", "") for kind in shown if "text/html" not in kind]
            texts[stem] = "\n".join("".join(part) for part in parts)
    return {name: " ".join(text.split()) for name, text in texts.items()}


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """The record's tables by name, and the data of its figures, as ``figure 0_curve``."""
    found = {path.stem: pd.read_csv(path) for path in sorted((RECORD / "tables").glob("*.csv"))}
    return found | {f"figure {path.stem}": pd.read_csv(path) for path in sorted((RECORD / "figures").glob("*.csv"))}


@pytest.fixture(scope="module")
def claims() -> pd.DataFrame:
    return pd.read_csv(RECORD / "claims.csv").set_index("id")


def triples(table: pd.DataFrame) -> Iterator[tuple[float, float, float]]:
    """Every estimate of a table with its two limits."""
    for names in tablediff._intervals(list(table)):
        numbers = table[list(names)].apply(pd.to_numeric, errors="coerce").dropna()
        yield from numbers.itertuples(index=False, name=None)
    for text in table.select_dtypes(["object", "str"]).stack():
        if match := FIGURE.match(str(text)):
            yield tuple(float(part.replace("−", "-")) for part in match.groups())


def stated(text: str) -> list[tuple[str, ...]]:
    """The figures with an interval in a text, as they are written."""
    return [tuple(part.replace("−", "-") for part in match.groups()) for match in FIGURE.finditer(text)]


def held(figure: tuple[str, ...], known: list[tuple[float, float, float]]) -> bool:
    """Whether a table has this figure with these limits, to the decimals that are written, as a fraction or in %."""
    places = [len(part.partition(".")[2]) for part in figure]
    wanted = [float(part) for part in figure]

    def close(values: tuple[float, ...], scale: float) -> bool:
        pairs = zip(values, wanted, places, strict=True)
        return all(abs(scale * value - want) <= 0.501 * 10.0**-n for value, want, n in pairs)

    return any(close(values, scale) for values in known for scale in (1, 100, -100))


# --- sentences of a known form ---------------------------------------------------------------------------------------


def title_verdict(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    return claims.loc["TITLE.threshold", "verdict"] == WORDS[match[1]]


def beats_random_from(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    """From the rate that is named on, and from no lower one, version 1's adjusted p is below .05 and its d above 0."""
    primary = tables["0_version_1"].set_index("noise rate (%)")
    shown = (primary["p (Holm)"] < 0.05) & (primary["d (F1)"] > 0)
    rate = float(match[1])
    return bool(shown[shown.index >= rate].all()) and not shown[shown.index < rate].iloc[-1:].any()


def statements_counted(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    verdicts = claims.verdict.value_counts()
    return int(match[1]) == len(claims) - verdicts.get(ledger.UNTESTABLE, 0)


def verdicts_counted(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    """How many statements hold in direction, do not (with what they are instead), and stay open."""
    hold, do_not, null, opposite, difference, stay_open, shown = (int(part) for part in match.groups())
    counted = {ledger.DIRECTION: hold, ledger.NULL: null, ledger.OPPOSITE: opposite, ledger.DIFFERENCE: difference}
    counted |= {ledger.INCONCLUSIVE: stay_open, ledger.SHOWN: shown}
    verdicts = claims.verdict.value_counts()
    return do_not == null + opposite + difference and counted == {name: verdicts.get(name, 0) for name in counted}


def nothing_below(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    """That nothing says that pruning pays up to a rate: no lower limit of version 1's cell is above 0 there."""
    primary = tables["0_version_1"].set_index("noise rate (%)")
    return not (primary.low[primary.index <= float(match[1])] > 0).any()


COUNTED = (
    r"(\d+) hold in direction, (\d+) do not \((\d+) null, (\d+) opposite, (\d+) where .*?\), (\d+) stay open, "
    r"and (\d+) are"
)
RULES: dict[str, Callable[[re.Match, dict[str, pd.DataFrame], pd.DataFrame], bool]] = {
    r"title is \**(refuted|reproduced|inconclusive)": title_verdict,
    r"beats random (?:subsampling )?from ([\d.]+) % (?:flipped labels )?on": beats_random_from,
    r"(\d+) that a run can reach": statements_counted,
    r"a run can reach (\d+)": statements_counted,
    COUNTED: verdicts_counted,
    r"[Bb]elow about (\d+) % wrong labels nothing": nothing_below,
}


def false_statements(text: str, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> list[str]:
    """What a text says that the record does not hold."""
    known = [triple for table in (*tables.values(), claims.reset_index()) for triple in triples(table)]
    wrong = [f"{value} [{low}, {high}]" for value, low, high in stated(text) if not held((value, low, high), known)]
    for pattern, holds in RULES.items():
        wrong += [match[0] for match in re.finditer(pattern, text) if not holds(match, tables, claims)]
    return wrong


@pytest.mark.parametrize("name", ["README", *DOCUMENTS])
def test_no_headline_contradicts_the_tables(name, tables, claims):
    text = documents().get(name)
    if text is None:
        pytest.skip(f"the reference record has no notebook {name}")
    assert false_statements(text, tables, claims) == []


def test_the_advice_of_notebook_6_follows_the_records_own_verdicts(claims):
    shown = documents()["6_verdicts"]
    for claim_id, sentences in s6.ADVICE.items():
        said = [sentence for sentence in sentences if " ".join(sentence.split()) in shown]
        assert said == [sentences[s6._ANSWERS.get(claims.loc[claim_id, "verdict"], 2)]], claim_id


# --- the reading itself ----------------------------------------------------------------------------------------------

TABLES = {
    "0_version_1": pd.DataFrame(
        {
            "noise rate (%)": [10, 12.5, 20, 30],
            "d (F1)": [0.01, 0.013, 0.026, 0.03],
            "low": [-0.002, 0.001, 0.012, 0.019],
            "high": [0.02, 0.03, 0.04, 0.05],
            "p (Holm)": [0.3, 0.16, 0.012, 0.001],
        }
    ),
}
CLAIMS = pd.DataFrame(
    {"verdict": [ledger.INCONCLUSIVE, ledger.UNTESTABLE], "measured": [0.0264, None], "low": [0.01, None]}
).assign(high=[0.04, None])
CLAIMS.index = pd.Index(["TITLE.threshold", "ABS.x"], name="id")


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("It gains 2.6 % [1.2, 4.0].", "It gains 2.6 % [1.2, 5.0]."),
        ("d is +0.026, 95 % interval [0.012, 0.040]", "d is +0.036, 95 % interval [0.012, 0.040]"),
        ("the title is **inconclusive**", "the title is **refuted**"),
        ("pruning beats random subsampling from 20 % flipped labels on", "pruning beats random from 12.5 % on"),
        ("of the 1 that a run can reach", "of the 126 that a run can reach"),
        (
            "0 hold in direction, 0 do not (0 null, 0 opposite, 0 where the paper claims none), 1 stay open, and 0 are",
            "1 hold in direction, 0 do not (0 null, 0 opposite, 0 where the paper claims none), 0 stay open, and 0 are",
        ),
        ("Below about 10 % wrong labels nothing here", "Below about 15 % wrong labels nothing here says it pays"),
    ],
)
def test_a_false_headline_is_caught_and_a_true_one_is_not(true, false):
    assert false_statements(true, TABLES, CLAIMS) == []
    assert len(false_statements(false, TABLES, CLAIMS)) == 1
    assert protocol().statistics["alpha"] < 0.05
