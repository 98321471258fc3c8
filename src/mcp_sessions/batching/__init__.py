"""Many concurrent calls, one statement.

Read ``batcher`` first: calls that are under way together share a run. ``session_calls`` says what one run does to the
database for each kind of call on sessions, and which answer belongs to whom.
"""
