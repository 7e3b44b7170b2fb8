"""`python -m swinkit` is the command line."""

from swinkit.cli import main

if __name__ == "__main__":
    main()
