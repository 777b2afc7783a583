"""`python predict.py`, the same as `segrefine predict`."""

from segrefine.cli.predict import main

if __name__ == "__main__":
    main()
