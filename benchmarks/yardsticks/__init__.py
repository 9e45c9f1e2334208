"""Other ways to do the same work, each a program of its own and written as well as its kind allows.

``sdk`` and ``sdk_signing`` run under another Python, for the official SDK displaces other packages.
"""
