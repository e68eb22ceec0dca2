"""Reports: results as text, as a table, as a picture and as files."""
