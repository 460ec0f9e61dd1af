"""Rounds: what a coordinator asks, what a site answers, how answers are averaged."""
