"""What the raw scores of a study show, in sentences: for who deploys a model, and where scores and ER disagree."""
