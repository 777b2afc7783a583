"""Run `python -m segrefine COMMAND`, the same as `segrefine COMMAND`."""

from segrefine.cli.main import main

if __name__ == "__main__":
    main()
