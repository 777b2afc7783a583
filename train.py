"""`python train.py`, the same as `segrefine train`."""

from segrefine.cli.train import main

if __name__ == "__main__":
    main()
