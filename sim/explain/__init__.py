"""What limits a deployment, and by how much."""
