"""How data sets lie on disk: class folders, tables, archives of arrays."""
