"""Read and keep the snapshots that the app's pages post."""
