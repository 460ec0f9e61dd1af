"""The remote teacher: channel, sealed calls, pipelined batches, onboarding."""
