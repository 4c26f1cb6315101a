"""What a reader takes away, from the README and from notebooks 0, 6 and 7, against the record's tables.

Read are the README, the notebooks' own words and what they show. Three kinds of statement: a figure with its
interval, ``3.6 % [0.9, 7.7]``, which some table must hold; in the README's answers any figure with a decimal, which a
table about what its paragraph speaks of must hold (``TOPICS``); and a sentence of a known form, which a rule below
holds against the table it is about. A notebook that is added to ``DOCUMENTS`` is read alike.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datalab import ledger
from datalab.ledger.claim import STRENGTHS
from datalab.protocol import protocol
from datalab.record.checks import tablediff

PROJECT = Path(__file__).resolve().parents[1]
RECORD = PROJECT / "runs" / "reference"
DOCUMENTS = ("0_title_noise_threshold", "6_verdicts", "7_when_to_prune")
NUMBER = r"[-+−]?\d+(?:\.\d+)?"
FIGURE = re.compile(rf"(?<![A-Za-z\d.])({NUMBER}) ?%?(?:[^.\[\]\n]{{0,60}}interval)? \[({NUMBER}), ({NUMBER})\]")
WORDS = {"refuted": ledger.OPPOSITE, "reproduced": ledger.REPRODUCED, "inconclusive": ledger.INCONCLUSIVE}
WORDS["Neither shown nor refuted"] = ledger.INCONCLUSIVE
RATE = r"(none at all|(?:below |above )?[\d.]+)(?: %)?"
# From which rate on pruning by influence is said to be ahead of a comparator: one rate, or the least and the largest
# of the scores that are counted.
AHEAD = (
    r"(?:(?:beats|ahead of) (?:dropping 30 % at |pruning at )?(random|keeping everything)(?: pruning| subsampling)?"
    r"|(keeping everything)[^.;]{0,20}? it is ahead)"
    rf" from (?:at most |about )?{RATE}(?: (?:to|or) {RATE})?(?: (?:wrong|flipped) labels)? on\b"
)
# At which single rates it is said to be ahead of keeping everything, with the rest of the sentence.
AHEAD_AT = (
    r"(?:(?:beats|ahead of|gains on|better than) keeping everything|"
    r"[Aa]gainst keeping everything it is, on \d+ (?:balanced|skewed) sets, ahead) at ([\d.]+ %.*?)(?=\. [A-Z]|\.$|$)"
)


# What a paragraph speaks of, and the tables that its figures are from; where it speaks of several, any of these.
TOPICS = {
    r"[Hh]ow long|\bsteps\b|training length": r"0_training_length|figure 0_training_length",
    r"balanced|skewed|wrong labels on|title": r"0_(crossover|without|primary|verdict|readings_apart|mechanism|parts)",
    r"classes|easier|harder": r"0_parts|0_by_dataset",
    r"correlation|[Hh]ow hard": r"0_goes_with",
    r"5000|examples instead": r"0_by_size|0_larger",
    r"How much is dropped": r"0_by_share|0_share_apart|0_share_full",
    r"[Kk]eep(ing)? (all|everything)|everything is kept": r"0_(against_full|full_)|7_(against|stopped|rules|by_)",
    r"foretold|foretell|predict": r"7_(predictors|rules)",
    r"end to end": r"0_fine_tuned",
    r"paper's own method|scorer|DATA-LAB": r"4_[13]_",
    r"variance": r"4_2_variance",
    r"[Tt]he paper": r"paper",
    r"[Vv]ersion 1": r"0_(version_1|settings)|published",
}
DECIMAL = re.compile(r"(?<![\w.\-])([-+−]?\d*\.\d+)(?![\w.]*\w)( %| points)?")


def readme() -> str:
    return (PROJECT / "README.md").read_text(encoding="utf-8")


def answers() -> list[str]:
    """The paragraphs and list items of the README's first screen and of "What was found"."""
    first, found = readme().split("## Two commands")[0], readme().split("## What was found")[1].split("\n## ")[0]
    parts = re.split(r"\n\s*\n|\n- ", first + "\n\n" + found)
    parts = [" ".join(re.sub(r"\]\([^)]*\)", "]", part).split()) for part in parts]
    return [part for part in parts if not part.startswith("| what is changed")]  # a test of its own holds it


def documents() -> dict[str, str]:
    """The README but for the advice on own data, and of each notebook what it says and what it shows in the record."""
    own_data = re.compile(
        r"\n## Your own data.*?(?=\n## )", re.DOTALL
    )  # of the advice's own benchmark, not of the record
    texts = {"README": own_data.sub("", readme())}
    for stem in DOCUMENTS:
        source = json.loads((PROJECT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))["cells"]
        parts = ["".join(cell["source"]) for cell in source if cell["cell_type"] == "markdown"]
        path = RECORD / "notebooks" / f"{stem}.ipynb"
        if path.exists():
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
            parts += ["".join(kind.get("text/markdown", "")) for kind in shown if "text/html" not in kind]
        texts[stem] = "\n\n".join(parts)
    return {name: " ".join(text.split()) for name, text in texts.items()}


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?:])[*)]* (?=[A-Z*`(\d])", text)


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """The record's tables by name, and the data of its figures, as ``figure 0_curve``."""
    found = {path.stem: pd.read_csv(path) for path in sorted((RECORD / "tables").glob("*.csv"))}
    published = " ".join(change["what"] for change in protocol().changes if change["version"] == 1)
    found["paper"] = pd.DataFrame({"printed": [claim.reported_text() for claim in ledger.claims().values()]})
    found["published"] = pd.DataFrame({"what": [published]})
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
    """The figures with an interval in a text, as they are written; "at 99.5 % [...]" is a verdict's limits alone."""
    text = re.sub(r"; at [\d.]+ % \[", "; [", text)
    return [tuple(part.replace("−", "-") for part in match.groups()) for match in FIGURE.finditer(text)]


def held(figure: tuple[str, ...], known: list[tuple[float, float, float]]) -> bool:
    """Whether a table has this figure with these limits, to the decimals that are written, as a fraction or in %."""
    places = [len(part.partition(".")[2]) for part in figure]
    wanted = [float(part) for part in figure]

    def close(values: tuple[float, ...], scale: float) -> bool:
        pairs = zip(values, wanted, places, strict=True)
        return all(abs(scale * value - want) <= 0.501 * 10.0**-n for value, want, n in pairs)

    return any(close(values, scale) for values in known for scale in (1, 100, -100))


def plain(text: str) -> str:
    """A text whose numbers have no commas: 3000 for 3,000."""
    return re.sub(r"(?<=\d),(?=\d{3})", "", text)


def numbers(table: pd.DataFrame, paragraph: str) -> np.ndarray:
    """The numbers (n, 2) of a table's rows and columns that a paragraph can speak of: as they are, and in %.

    Of a column of words, such as the stratum, the rows whose word the paragraph has, if it has any; of chances and p,
    what a paragraph that has a p says. Where one length is named, others are by their number alone: "after 100 steps,
    after 200".
    """

    def named(words: list[str]) -> np.ndarray:
        in_full = [word in paragraph and not re.search(r"\d %", word) for word in words]
        steps = [re.fullmatch(r"(\d+) steps", word) for word in words]
        if not any(full and length for full, length in zip(in_full, steps, strict=True)):
            return np.array(in_full, dtype=bool)
        by_number = [bool(length and re.search(rf"\b{length[1]}\b", paragraph)) for length in steps]
        return np.array(in_full) | np.array(by_number)

    words = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    for name in words:
        of_rows = named([plain(str(word)) for word in table[name]])
        table = table[of_rows] if of_rows.any() else table
    pairs = []
    for name in table:
        if re.match(r"[Pp]\b", name) and not re.search(r"\bp\b", paragraph):
            continue
        text = " ".join(map(str, table[name])).replace("−", "-")
        values = np.array(re.findall(r"[-+]?\d*\.?\d+(?:e-?\d+)?", text), dtype=float)
        pairs.append(np.stack([values, values if name in words or "%" in name else 100 * values], axis=1))
    return np.concatenate(pairs or [np.empty((0, 2))])


def unfounded(paragraph: str, tables: dict[str, pd.DataFrame]) -> list[str]:
    """The figures with a decimal in a paragraph, but for those with an interval, that no table about what it speaks of
    holds, as they are written: a figure of 1 or more in % or points, one below 1 without a unit as it is."""
    paragraph = plain(paragraph)
    about = "|".join(names for topic, names in TOPICS.items() if re.search(topic, paragraph))
    known = [numbers(table, paragraph) for name, table in tables.items() if re.match(about, name)]
    known = np.concatenate(known or [np.empty((0, 2))])

    def found(match: re.Match) -> bool:
        want, allowed = float(match[1].replace("−", "-")), 0.501 * 10.0 ** -len(match[1].partition(".")[2])
        in_percent = bool(match[2]) or abs(want) >= 1
        return bool((np.abs(np.abs(known[:, int(in_percent)]) - abs(want)) <= allowed).any())

    return [match[1] for match in DECIMAL.finditer(FIGURE.sub("", paragraph)) if not found(match)]


# --- sentences of a known form ---------------------------------------------------------------------------------------


def title_verdict(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    return claims.loc["TITLE.threshold", "verdict"] == WORDS.get(match[1], WORDS.get(match[1].lower()))


def stratum(match: re.Match) -> str:
    """Which data sets a sentence is about: those its text names last before it, within a few sentences."""
    before = match.string[max(0, match.start() - 800) : match.end()]
    return re.findall("balanced|skewed", "balanced " + before)[-1]


def as_rate(words: str) -> float:
    """A noise rate in %, as a text or a table of crossovers writes it: beyond the rates studied it is infinite."""
    beyond = {"none at all": -np.inf, "below": -np.inf, "<": -np.inf, "above": np.inf, ">": np.inf}
    said_so = next((end for word, end in beyond.items() if words.startswith(word)), None)
    return float(words.removesuffix(" %")) if said_so is None else said_so


def ahead_from(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    """The rates from which it is ahead are the least and the largest crossover of the scores that are counted."""
    table = tables["0_crossover" if "random" in match.groups() else "0_full_crossover"]
    table = table[table.stratum == stratum(match)]
    if "data sets" in table:
        table = table[table["data sets"] == "all"]
    known = sorted(as_rate(text) for text in table.crossover)
    least, largest = match[3], match[4] or match[3]
    wanted = as_rate(least), as_rate(largest)
    places = len(least.partition(".")[2]), len(largest.partition(".")[2])
    pairs = zip((known[0], known[-1]), wanted, places, strict=True)
    return all(have == want or abs(have - want) <= 0.501 * 10.0**-n for have, want, n in pairs)


def ahead_at(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    """Ahead of keeping everything at a single rate: after adjusting, in a score; unadjusted where the sentence says so.

    A sentence that names scores says of every one the rates that the table has.
    """
    table = tables["0_full_by_reading"]
    table = table[table.stratum == stratum(match)]
    if "unadjusted" not in match[0]:
        shown = table[table["smallest p of a gain (Holm)"] < 0.05]
        return float(match[1].partition(" ")[0]) in set(shown["noise rate (%)"])
    said_of = re.findall(r"((?:[\d.]+ %(?:, )?)+) \(([^)]+)\)", match[1].partition(", behind")[0])
    known = table[table.ahead != "no rate"].set_index("reading").ahead.to_dict()
    return {score: rates for rates, score in said_of} == known


def statements_counted(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    verdicts = claims.verdict.value_counts()
    return int(match[1]) == len(claims) - verdicts.get(ledger.UNTESTABLE, 0)


def verdicts_counted(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    """How many statements hold in direction, do not (with what they are instead), and stay open."""
    hold, forced, do_not, forced_not, *others, stay_open, shown = (int(part or 0) for part in match.groups())
    null, opposite, difference = others
    counted = {ledger.DIRECTION: hold, ledger.NULL: null, ledger.OPPOSITE: opposite, ledger.DIFFERENCE: difference}
    counted |= {ledger.INCONCLUSIVE: stay_open, ledger.SHOWN: shown}
    verdicts = claims.verdict.value_counts()
    right = counted == {name: verdicts.get(name, 0) for name in counted} and forced == by_construction(claims)
    right &= forced_not == by_construction(claims, ledger.NULL, ledger.OPPOSITE, ledger.DIFFERENCE)
    return do_not == null + opposite + difference and right


def by_construction(claims: pd.DataFrame, *verdicts: str) -> int:
    """How many statements hold in direction, or have another verdict, because they could not do otherwise."""
    return int((claims.verdict.isin(verdicts or [ledger.DIRECTION]) & claims.by_construction.notna()).sum())


def told_with_what_is_forced(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    """A count of statements that hold in direction is followed by the number that do by construction."""
    forced = re.match(r"[^.;]*?\b(\d+)[^.;,\d]*by construction", match[1].split(" do not")[0])
    return by_construction(claims) == (int(forced[1]) if forced else 0)


def both_of_the_title(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    """Beside the verdict on the threshold stands the one on "only": where it is opposite, a sentence says so."""
    words = r"(?:15 %|\bonly\b)[^.]*(?:opposite|refuted|false|does not hold|not so|contradict)"
    return claims.verdict.get("TITLE.only_when") != ledger.OPPOSITE or bool(re.search(words, match[0]))


def at_no_share(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    """On balanced sets no score's smallest p of a gain on keeping everything, after Holm's method, is a shown one's."""
    table = tables["0_full_by_reading"]
    return bool((table["smallest p of a gain (Holm)"][table.stratum == "balanced"] >= 0.05).all())


def audit_counted(match: re.Match, tables: dict[str, pd.DataFrame], claims: pd.DataFrame) -> bool:
    """In how many ways the paper contradicts itself, by the strongest of each, and in how many statements."""
    touched = [claim for claim in ledger.claims().values() if claim.paper_verdict == "contradicted"]
    of_way: dict[str, list[str]] = {}
    for claim in touched:
        of_way.setdefault(claim.paper_check.contradiction, []).append(claim.paper_check.strength)
    by_way = [min(levels, key=STRENGTHS.index) for levels in of_way.values()]
    by_statement = [claim.paper_check.strength for claim in touched]
    counted = [len(names) if level is None else names.count(level)
               for names in (by_way, by_statement) for level in (None, *STRENGTHS)]  # fmt: skip
    return [*counted, sum(claim.testability == "internal" for claim in touched)] == [int(n) for n in match.groups()]


SINGLE = r"gain\s+of influence on keeping everything is shown at no single share"
CONTRADICTED = (
    r"contradicts itself in (\d+) ways, of which no reading rescues (\d+) \((\d+) more .*?; for (\d+) .*?\)\. "
    r"They touch (\d+) of its statements \((\d+) strictly, (\d+) strongly, (\d+) naturally; "
    r"(\d+) of them are checked against the paper alone\)"
)
COUNTED = (
    r"(\d+) hold in direction(?: \((\d+) of them by construction\))?, (\d+) do not "
    r"\((?:(\d+) of them by construction; )?(\d+) null, (\d+) opposite, (\d+) where .*?\), (\d+) stay open, "
    r"and (\d+) are"
)
RULES: dict[str, Callable[[re.Match, dict[str, pd.DataFrame], pd.DataFrame], bool]] = {
    r"(?:title is|rule fixed before says) \**(refuted|reproduced|inconclusive)": title_verdict,
    r"[Dd]id the paper hold\?\** (Neither shown nor refuted|[Rr]efuted|[Rr]eproduced|[Ii]nconclusive)": title_verdict,
    AHEAD: ahead_from,
    AHEAD_AT: ahead_at,
    SINGLE: at_no_share,
    r"(\d+) that a run can reach": statements_counted,
    r"a run can reach (\d+)": statements_counted,
    COUNTED: verdicts_counted,
    CONTRADICTED: audit_counted,
    r"\d+ hold in direction(.{0,80})": told_with_what_is_forced,
    r"[^#]*title is \**(?:refuted|reproduced|inconclusive)(?! by rule)[^#]*": both_of_the_title,
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


@pytest.mark.parametrize("path", sorted((RECORD / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_sentence_that_a_notebook_shows_has_a_figure_that_is_none(path):
    """Before: 3.2 called every architecture no better than the majority class, "accuracy nan on mnist5k" and so on."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    text = "\n".join("".join(kind.get("text/markdown", "")) for kind in shown if "text/html" not in kind)
    assert not re.findall(r".{0,60}\bnan\b.{0,20}", text)


@pytest.mark.parametrize("place", range(len(answers())))
def test_no_figure_of_the_readmes_answers_is_without_a_table_about_it(place, tables):
    assert unfounded(answers()[place], tables) == [], answers()[place]


# The rows of the README's table of what moves the threshold: the record's table and rows that each is the range of.
ALL = {"stratum": "balanced", "data sets": "all"}
EASY, STOPPED = "three or more classes and a clean F1 at their median or above", "stopped early"
MOVED = {
    "nothing: 40 balanced sets, 30 % dropped, every model stopped early": ("0_crossover", ALL),
    "the 27 sets with two classes": ("0_parts", {"part": "two classes"}),
    "the 13 sets with three classes or more": ("0_parts", {"part": "three or more classes"}),
    "the 8 of these that are easy": ("0_parts", {"part": EASY}),
    "24 skewed sets": ("0_crossover", ALL | {"stratum": "skewed"}),
    "everything kept, in place of random": ("0_full_crossover", {"stratum": "balanced"}),
    "1000 training examples of the ten sets that have 5000": ("0_by_size", {"trained on": "up to 1,000"}),
    "5000 training examples of these": ("0_by_size", {"trained on": "up to 5,000"}),
}
MOVED |= {f"{share} % dropped": ("0_by_share", {"dropped": f"{share} %"}) for share in (10, 50)}
for n in (100, 200, 400, 1000, 3000):
    ranks, trained = {"reference": f"{n} steps", "trained": STOPPED}, {"reference": STOPPED, "trained": str(n)}
    MOVED[f"the models that rank train for {n} steps"] = ("0_training_length", ranks)
    MOVED[f"the trained models train for {n} steps"] = ("0_training_length", trained)


def test_the_readme_says_of_each_axis_the_range_and_the_outermost_limits_that_the_tables_have(tables):
    rows = plain(readme()).split("| what is changed")[1].split("\n\n")[0].splitlines()[2:]
    told = {what: said for what, *said in (row.strip("| ").split(" | ") for row in rows)}
    assert len(told) > 12

    def written(rates: list[str]) -> str:
        least, largest = min(rates, key=as_rate), max(rates, key=as_rate)
        words = [of.removesuffix(" %").replace("<", "below").replace(">", "above") for of in (least, largest)]
        return " to ".join(dict.fromkeys(words))

    for what, said in told.items():
        name, at = MOVED[what]
        table = tables[name]
        for column, value in (({"stratum": "balanced"} if "stratum" in table else {}) | at).items():
            table = table[table[column] == value]
        n = re.findall(r"\b(\d+) (?:balanced |skewed )?(?:sets|of these that)", what)
        assert not n or set(table.sets) == {int(n[0])}, what
        assert said == [written([*table.crossover]), written([*table["95 % low"], *table["95 % high"]])], what


# Up to which rate pruning is said not to pay.
NOT_UP_TO = (
    r"(?:(?:[Bb]elow|[Uu]p to|[Uu]nder|[Aa]t or below)(?: about)? ([\d.]+) %|[Aa]t ([\d.]+) %[^.:;]{0,20}or less)"
    r"[^.:;]{0,80}?\b(?:nothing|(?:do|does|is) not\b(?! shown)|no better|never)\b"
    r"|\b(?:no gain|nothing[^.:;]{0,40}?) (?:up to|below) ([\d.]+) %"
    r"|\bonly (?:above|when more than|from) ([\d.]+) %"
)
# That at no single rate a gain of influence on keeping everything is shown.
NOWHERE = r"shown at no single share|by influence none"
# Which documents have a sentence of each form; notebook 7 names no rate from which one is ahead.
IN_USE = [(name, AHEAD) for name in ("README", "0_title_noise_threshold")]
IN_USE += [(name, NOT_UP_TO) for name in ("0_title_noise_threshold", "6_verdicts")]
IN_USE += [("0_title_noise_threshold", AHEAD_AT)]
IN_USE += [(name, NOWHERE) for name in ("README", "7_when_to_prune")]
IN_USE += [("README", SINGLE)]


def reported(match: re.Match) -> bool:
    """Whether a sentence only repeats what the paper says, or says how a statement of it was judged."""
    said_by = re.search(r"\b(?:paper|title|abstract) says\b", match.string[: match.start()])
    return bool(said_by) or bool(re.search(r"\*?inconclusive\b", match.string))


def ahead_in(text: str) -> list[tuple[str, float, str]]:
    """Of balanced sets: of which comparator influence is said to be ahead, from which rate in every score, and where.

    Ahead of everything at one share is a comparison of its own: it is said as shown, a crossover as an estimate.
    """
    leads = [match for match in re.finditer(AHEAD, text) if stratum(match) == "balanced"]
    known = [(match[1] or match[2], as_rate(match[4] or match[3]), match[0]) for match in leads]
    for sentence in sentences(text):
        if not re.search("unadjusted|skewed", sentence):
            shown = re.finditer(AHEAD_AT, sentence)
            known += [("everything at one share", float(match[1].partition(" ")[0]), sentence) for match in shown]
    return known


def not_ahead_in(text: str) -> list[tuple[str, float, str]]:
    """Of which comparator influence is said not to be ahead, up to which rate, and the sentence."""
    known = []
    for sentence in sentences(text):
        against = "keeping everything" if re.search("[Kk]eep", sentence) else "random"
        own = [match for match in re.finditer(NOT_UP_TO, sentence) if not reported(match)]
        known += [(against, float(match[match.lastindex]), sentence) for match in own if "skewed" not in sentence]
        known += [("everything at one share", np.inf, sentence) for _ in re.finditer(NOWHERE, sentence)]
    return known


def contradictions(texts: dict[str, str]) -> list[tuple[str, str]]:
    """Pairs of sentences, of one document or two: that pruning pays at a rate, and that it does not."""
    ahead, not_ = ([one for text in texts.values() for one in read(text)] for read in (ahead_in, not_ahead_in))
    return [(a, b) for against, rate, a in ahead for other, up_to, b in not_ if other == against and rate < up_to]


def test_readme_and_notebooks_do_not_contradict_each_other():
    assert contradictions(documents()) == []


@pytest.mark.parametrize(("name", "form"), IN_USE)
def test_every_form_of_a_sentence_on_where_pruning_pays_is_in_use(name, form):
    """Before, the wording had changed, the forms matched no sentence, and nothing was compared."""
    assert re.search(form, documents()[name])


@pytest.mark.parametrize("name", ["README", "0_title_noise_threshold"])
def test_the_readme_and_notebook_0_say_from_where_it_is_ahead_of_random_and_of_keeping_everything(name):
    assert {"random", "keeping everything"} <= {against for against, _, _ in ahead_in(documents()[name])}


def test_every_rule_is_about_a_sentence_in_use():
    text = "\n".join(documents().values())
    assert [pattern for pattern in RULES if not re.search(pattern, text)] == []


@pytest.mark.parametrize("name", ["6_verdicts", "7_when_to_prune"])
@pytest.mark.parametrize(
    "sentence",
    [
        "Below 15 % nothing says it pays.",
        "Below about 15 % wrong labels nothing here says that pruning by influence pays.",
        "At 15 % wrong labels or less, do not prune by influence in place of at random.",
        "Pruning by influence wins only above 15 % wrong labels.",
        "At 20 % wrong labels or less pruning is never better than keeping everything.",
        "Pruning by influence beats keeping everything at 20 % wrong labels.",
    ],
)
def test_a_sentence_that_contradicts_another_notebook_or_the_readme_is_caught(name, sentence):
    own = documents()
    assert contradictions(own | {name: f"{own[name]} {sentence}"})


@pytest.mark.parametrize(
    "sentence", ["Pruning beats keeping everything at 20 % wrong labels.", "It is ahead of keeping everything at 5 %."]
)
def test_a_gain_on_keeping_everything_at_a_rate_where_the_tables_show_none_is_caught(sentence, tables, claims):
    (match,) = re.finditer(AHEAD_AT, f"{documents()['6_verdicts']} {sentence}")
    assert not ahead_at(match, tables, claims)


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
    "0_crossover": pd.DataFrame(
        {
            "stratum": ["balanced"] * 3 + ["skewed"] * 2,
            "data sets": ["all", "all", "untouched", "all", "all"],
            "crossover": ["< 0 %", "1.3 %", "9.0 %", "4.0 %", "> 40 %"],
        }
    ),
    "0_full_crossover": pd.DataFrame({"stratum": "balanced", "crossover": ["12.8 %", "4.9 %"]}),
    "0_full_by_reading": pd.DataFrame(
        {
            "stratum": ["balanced", "balanced", "skewed"],
            "reading": ["F1, quota", "F1, no quota", "F1, quota"],
            "noise rate (%)": [40, 30, 15],
            "ahead": ["20 %, 40 %", "no rate", "15 %"],
            "smallest p of a gain (Holm)": [0.3, np.nan, 0.014],
        }
    ),
}
CLAIMS = pd.DataFrame(
    {"verdict": [ledger.INCONCLUSIVE, ledger.UNTESTABLE], "measured": [0.0264, None], "low": [0.01, None]}
).assign(high=[0.04, None], by_construction=None)
CLAIMS.index = pd.Index(["TITLE.threshold", "ABS.x"], name="id")


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("It gains 2.6 % [1.2, 4.0].", "It gains 2.6 % [1.2, 5.0]."),
        ("d is +0.026, 95 % interval [0.012, 0.040]", "d is +0.036, 95 % interval [0.012, 0.040]"),
        ("the title is **inconclusive**", "the title is **refuted**"),
        ("It beats random pruning from below 0 to 1.3 % on", "It beats random subsampling from 12.5 % on"),
        (
            "ahead of random from none at all to 1.3 % wrong labels on",
            "ahead of random from 1.3 to 9 % wrong labels on",
        ),
        (
            "On skewed sets it is ahead of random from 4 % to above 40 % on",
            "On skewed sets it beats random from 4 % on",
        ),
        ("Of keeping everything it is ahead from 4.9 to 12.8 % on", "It beats keeping everything from 1.3 % on"),
        ("On skewed sets it beats keeping everything at 15 %.", "It beats keeping everything at 20 %."),
        (
            "Against keeping everything it is, on 40 balanced sets, ahead at 20 %, 40 % (F1, quota) (unadjusted).",
            "Against keeping everything it is, on 40 balanced sets, ahead at 20 %, 30 % (F1, quota) (unadjusted).",
        ),
        ("of the 1 that a run can reach", "of the 126 that a run can reach"),
        (
            "0 hold in direction, 0 do not (0 null, 0 opposite, 0 where the paper claims none), 1 stay open, and 0 are",
            "1 hold in direction, 0 do not (0 null, 0 opposite, 0 where the paper claims none), 0 stay open, and 0 are",
        ),
    ],
)
def test_a_false_headline_is_caught_and_a_true_one_is_not(true, false):
    assert false_statements(true, TABLES, CLAIMS) == []
    assert len(false_statements(false, TABLES, CLAIMS)) == 1


def test_the_papers_contradictions_are_told_by_strength_and_as_they_are_counted():
    text = re.sub(r"\s+", " ", readme())
    told = re.search(CONTRADICTED, text)
    assert told, "README: in how many ways the paper contradicts itself"
    assert false_statements(told[0], TABLES, CLAIMS) == []
    for place in range(1, 10):
        start, end = told.start(place) - told.start(), told.end(place) - told.start()
        assert false_statements(told[0][:start] + str(int(told[place]) + 1) + told[0][end:], TABLES, CLAIMS)


def test_directions_that_hold_are_not_told_without_those_that_hold_by_construction():
    forced = pd.DataFrame({"verdict": [ledger.DIRECTION] * 3, "by_construction": ["added", None, None]}, list("abc"))
    claims = pd.concat([CLAIMS, forced])
    counted = ", 0 do not (0 null, 0 opposite, 0 where the paper claims none), 1 stay open, and 0 are"
    assert false_statements("3 hold in direction (1 of them by construction)" + counted, TABLES, claims) == []
    assert false_statements("3 hold in direction" + counted, TABLES, claims)
    assert false_statements("3 hold in direction, of which 2 by construction.", TABLES, claims)
    lost = pd.DataFrame({"verdict": [ledger.OPPOSITE], "by_construction": ["counted"]}, ["d"])
    told = "0 hold in direction, 1 do not ({}0 null, 1 opposite, 0 where the paper claims none), 1 stay open, and 0 are"
    assert false_statements(told.format("1 of them by construction; "), TABLES, pd.concat([CLAIMS, lost])) == []
    assert false_statements(told.format(""), TABLES, pd.concat([CLAIMS, lost]))


def test_the_titles_verdict_is_not_told_without_the_one_on_only():
    only = pd.DataFrame({"verdict": [ledger.OPPOSITE]}, ["TITLE.only_when"])
    claims, text = pd.concat([CLAIMS, only]), "The title is **inconclusive**."
    assert false_statements(text, TABLES, claims)
    assert false_statements(f"{text} That it wins only above 15 % is refuted.", TABLES, claims) == []


def test_a_figure_is_looked_for_in_the_tables_its_paragraph_speaks_of():
    tables = {"0_crossover": pd.DataFrame({"crossover": ["1.3 %"]}), "0_goes_with": pd.DataFrame({"rho": [0.481]})}
    assert unfounded("On balanced sets from 1.3 % wrong labels on.", tables) == []
    assert unfounded("On balanced sets from 0.48 % wrong labels on.", tables) == ["0.48"]
    assert unfounded("The rank correlation is .48.", tables) == []
    lengths = pd.DataFrame(
        {"reference": ["100 steps", "200 steps", "400 steps"], "crossover": ["11.6 %", "10.1 %", "5.7 %"]}
    )
    steps = {"0_training_length": lengths}
    assert unfounded("From 11.6 % on after 100 steps, from 10.1 % after 200.", steps) == []
    assert unfounded("From 11.6 % on after 100 steps, from 5.7 % after 200.", steps) == ["5.7"]


def test_two_sentences_that_contradict_are_found_in_two_documents():
    pays = "Pruning by influence beats random pruning from below 0 to 1.3 % wrong labels on."
    advice = "At 15 % wrong labels or less, do not prune by influence in place of at random."
    assert contradictions({"README": pays, "6_verdicts": advice})
    assert contradictions({"README": pays, "6_verdicts": advice.replace("at random", "keeping everything")}) == []
    assert contradictions({"README": pays.replace("1.3", "20"), "6_verdicts": advice}) == []
    assert contradictions({"README": f"On skewed sets: {pays}", "6_verdicts": advice}) == []
    shown, nowhere = "It beats keeping everything at 20 %.", "A gain on keeping everything is shown at no single share."
    assert contradictions({"README": nowhere, "6_verdicts": shown})
    assert contradictions({"README": nowhere, "6_verdicts": shown.replace("It", "On skewed sets it")}) == []
    assert contradictions({"README": nowhere, "6_verdicts": f"{shown[:-1]} (unadjusted)."}) == []
    papers = "The title says that it beats random subsampling only above 15 % wrong labels."
    assert contradictions({"README": pays, "6_verdicts": papers}) == []
