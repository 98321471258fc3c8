"""The audit trail above SQL.

Events are written by the statements that make them happen (``db.statements.events``). Here they are read, page by page
or followed live (``reader``), and uses that were refused are noted, to be written a moment later (``refusals``).
"""
