"""The flow of a study: made, measured, judged, chosen, written."""
