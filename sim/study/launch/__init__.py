"""Launch: a scenario as serving engines take it, in flags of a script or a graph deployment."""
