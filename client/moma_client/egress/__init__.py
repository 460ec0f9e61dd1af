"""The one way out of a site: what leaves it passes here, or does not leave.

to_coordinator  figures, counts, weights and refusals of a round
to_teacher      patches, and the student's weights for a momentum session
disclosed       what was disclosed so far, over all restarts
log             the site's own record of what left and what was suppressed
outcome         what a student's round gave, before anything of it leaves

Nothing else of the client makes a report or a query: test_boundary.py holds it.
"""
