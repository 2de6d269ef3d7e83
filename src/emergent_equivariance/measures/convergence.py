"""The kind kernel_convergence."""
