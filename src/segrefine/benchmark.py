"""Run `python -m segrefine.benchmark`, the same as `segrefine benchmark`."""

from segrefine.cli.benchmark import main

if __name__ == "__main__":
    main()
