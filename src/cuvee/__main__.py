"""`python -m cuvee`: the same command line as `cuvee`."""

from cuvee.cli.main import main

if __name__ == "__main__":
    main()
