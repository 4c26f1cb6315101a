"""The exception that a user's mistake raises: one line that names the input, what is wrong and what would be right."""


class UserError(ValueError):
    """A mistake in what the caller asked for. The command line prints it as one line and exits with status 2."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it: the line, without a traceback."""
        return [str(self)]


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known word, or the list of known words when none is close."""
    import difflib

    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; one of: {', '.join(known)}"
