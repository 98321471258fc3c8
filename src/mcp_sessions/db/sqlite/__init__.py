"""What only SQLite needs.

One thread writes (``writer``), hot reads stay in the event loop's own (``quick_reads``), the write-ahead log is copied
aside (``checkpoints``), and ``file_watch`` looks whether the file is still the one that was opened.
"""
