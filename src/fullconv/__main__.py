"""``python -m fullconv`` is the command ``fullconv``."""

from fullconv.cli.command import main

if __name__ == "__main__":
    main()
