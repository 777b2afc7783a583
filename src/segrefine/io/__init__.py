"""Read and write files: completely or not at all, and never running code from them."""
