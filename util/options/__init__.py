"""Options of command lines: types of values, flags of ReferFormer, the values of an inference script.

Standard library only, so that parsing a command line loads nothing else.
"""
