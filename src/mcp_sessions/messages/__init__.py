"""Messages between the workers of a deployment: answers, cancellations, notifications, what is published.

A worker has a row with a lease (``lease``), and a mailbox (``mailbox``): others leave rows for it, or for all workers,
and it looks for them when it is woken, and now and then while it waits for something. Rows are the truth and a wake-up
is a hint (``db.wake_ups``): losing every one of them costs time, never a message. Nobody looks while nobody waits.

This package knows nothing of HTTP and of MCP: what a message means is the business of whoever handles its kind.
"""
