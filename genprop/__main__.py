"""The command line, as ``python -m genprop``."""

from genprop.cli import main

if __name__ == "__main__":
    main()
