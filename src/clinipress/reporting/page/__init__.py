"""report.html: one module a section."""
