"""What people look at: the report, its figures, the tables on the screen."""
