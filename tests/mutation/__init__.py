"""Mutation testing of our own: `sites` makes mutants, `reach` knows which tests run which code, `warm` runs them."""
