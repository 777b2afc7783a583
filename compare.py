"""`python compare.py`, the same as `segrefine compare`."""

from segrefine.cli.compare import main

if __name__ == "__main__":
    main()
