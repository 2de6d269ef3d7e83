"""The kind kernel_regression."""
