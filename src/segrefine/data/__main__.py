"""Run `python -m segrefine.data`, the same as `segrefine data`."""

from segrefine.cli.data import main

if __name__ == "__main__":
    main()
