"""What runs in the sandbox's own process, standard library only; never imported as a part of farss, but for `folder`.

`process.py` starts an interpreter that imports this folder as a package of its own, named `inside`.
"""
