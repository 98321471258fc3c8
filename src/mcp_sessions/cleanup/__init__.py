"""The scheduled DELETE of expired sessions.

Read ``run`` first: one run, which one worker of all carries out, in batches whose size ``batch_size`` adapts to the
time that they take. ``schedule`` repeats it.
"""
