"""What people do with a model: each workflow is a short generator of steps."""
