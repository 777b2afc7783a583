"""Run `python -m segrefine.export`, the same as `segrefine export`."""

from segrefine.cli.export import main

if __name__ == "__main__":
    main()
