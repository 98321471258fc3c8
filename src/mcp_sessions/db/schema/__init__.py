"""The schema that a database has.

``revisions`` knows which one it is at and the way to another, ``definitions`` what it lacks of triggers, functions and
views.
"""
