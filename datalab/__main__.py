"""``python -m datalab`` is the ``datalab`` command."""

from datalab.cli import main

if __name__ == "__main__":
    main()
