"""Lightning callbacks for everything around training."""
