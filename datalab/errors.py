"""The exception that a user's mistake raises: one line that names the input, what is wrong and what would be right."""

MOST = 20  # names that a refusal lists


class UserError(ValueError):
    """A mistake in what the caller asked for. The command line prints it as one line and exits with status 2."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it: the line, without a traceback."""
        return [str(self)]


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known word, or a list of known words when none is close."""
    import difflib

    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = f" and {len(known) - MOST} more" if len(known) > MOST else ""
    return f"; one of: {', '.join(known[:MOST])}{more}"
