"""What happens around training, each a Lightning callback."""
