"""``python -m recover``: the command line, from an installation or a bare checkout."""

from recover.cli import main

if __name__ == "__main__":
    main()
