"""Charts, the same on every page. Each answers one question, its title; a colour has one meaning everywhere."""
