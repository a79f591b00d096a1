"""`python -m farss`, and `torchrun --module farss`: the same program as `farss`."""

from farss.cli.main import program

if __name__ == "__main__":
    program()
