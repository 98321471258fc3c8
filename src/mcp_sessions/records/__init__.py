"""Plain, frozen data that every layer speaks of: sessions and owners, events of the audit trail, statistics.

Nothing here knows where it is stored.
"""
