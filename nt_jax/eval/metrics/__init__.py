"""What is measured on answers: plain Python and numpy, one file a metric."""
