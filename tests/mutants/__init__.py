"""What each line is for: lines are taken away one by one, and somebody has to notice."""
