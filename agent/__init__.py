"""Who tunes: policies, their training, and the schedule that applies them in a training loop."""
