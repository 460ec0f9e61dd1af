"""The one way out of a site: what leaves it passes here, or does not leave.

to_coordinator  figures, counts, weights and refusals of a round
to_teacher      patches, and the student's weights where a teacher follows it
section         the policy, as the config file has it
told            what was told so far, over all restarts
log             the site's own record of what left and what was kept in
preview         what a run would send
encoding_report what a lossy encoding does to a teacher's answers
command         `moma-client egress`

Nothing else of the client makes a report or a query: test_boundary.py holds it.
"""
