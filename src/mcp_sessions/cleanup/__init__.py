"""The scheduled DELETE of expired sessions, and the end of many at once.

Read ``run`` first: one run, which one worker of all carries out, in batches whose size ``batch_size`` adapts to the
time that they take. ``schedule`` repeats it. ``bulk_ends`` ends all of a tenant, a client or a user.
"""
