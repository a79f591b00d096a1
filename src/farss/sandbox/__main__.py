"""`python -m farss.sandbox`: what the sandbox protects from on this system."""

from farss.sandbox.protections import probe

if __name__ == "__main__":
    print(probe())
