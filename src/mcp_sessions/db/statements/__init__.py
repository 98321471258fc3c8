"""Every statement, one named function each, in one module a table."""
