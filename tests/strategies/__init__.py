"""The Hypothesis strategies of the tests, by what they draw."""
