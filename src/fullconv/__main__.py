"""``python -m fullconv`` is the command ``fullconv``."""

from fullconv.cli import main

if __name__ == "__main__":
    main()
