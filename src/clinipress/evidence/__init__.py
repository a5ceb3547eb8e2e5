"""What is shown of a candidate: sections of evidence, rules, and the gate."""
