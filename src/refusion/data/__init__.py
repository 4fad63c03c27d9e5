"""Training data: pairs on disk, synthetic degradations, and the samples drawn from both."""
