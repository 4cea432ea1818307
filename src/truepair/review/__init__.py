"""Review: a person looks at suspected pairs and decides. Empty until the command that shows them is written."""
