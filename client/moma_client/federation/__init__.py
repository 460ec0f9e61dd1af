"""The site's Flower node: a child process that takes tasks and hands in reports."""
