"""Importing from the originals: one module each, with functions of the same names, tied together by `common.py`.

A converter knows names, shapes and conventions of one system. It may use tasks and nets; of the rest of Visloom only
the verbs and `visloom/saved.py` reach in here, and only when a file of another program is at hand.
"""
