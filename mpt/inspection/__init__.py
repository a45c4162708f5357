"""What every layer of a model computes in, what that costs, and what to change; before training."""
