"""Charts, the same on every page: one question each, stated in the title; a colour means the same thing everywhere."""
