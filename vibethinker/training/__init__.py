"""What supervised and reinforcement training share."""
