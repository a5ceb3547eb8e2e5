"""dossier.md: a predetermined change control plan and checklists, from the records."""
