"""What runs in the workers, a package for each family."""
