"""Names of other libraries over this one, for scripts that were written for them."""
