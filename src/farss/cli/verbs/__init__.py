"""One file per verb: SUMMARY, EXAMPLE, add_arguments and act."""
