"""`python evaluate.py`, the same as `segrefine evaluate`."""

from segrefine.cli.evaluate import main

if __name__ == "__main__":
    main()
