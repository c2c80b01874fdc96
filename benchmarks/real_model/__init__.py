"""Every method on one published model: what it chooses, what that is worth on other text and tasks, what it costs."""
