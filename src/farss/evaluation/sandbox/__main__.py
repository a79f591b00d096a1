"""`python -m farss.evaluation.sandbox`: what the sandbox protects from on this system."""

from farss.evaluation.sandbox.protections import probe

if __name__ == "__main__":
    print(probe())
