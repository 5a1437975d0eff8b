"""``python -m dreamforge``: the command line, from an installation or a bare checkout."""

from dreamforge.cli import main

if __name__ == "__main__":
    main()
