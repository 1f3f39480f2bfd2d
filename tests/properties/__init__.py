"""What holds whatever is thrown at it."""
