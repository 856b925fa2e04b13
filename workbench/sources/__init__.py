"""Where a user's own objects come from: callables by name, their arguments and code, and why they failed."""
