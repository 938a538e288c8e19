"""YAML documents: read with the place of every value, checked, told in our own words."""
