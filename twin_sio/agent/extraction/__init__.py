"""Finds what messages show of their user: `model` for a model that is fit to read (`fitness`), `rules` for all else.

A model proposes and is then asked to doubt (`prompts`); `gates` are the few things it is not asked. `slots` has the
names of what is found. Words are in data files: the code knows none of any language.
"""
