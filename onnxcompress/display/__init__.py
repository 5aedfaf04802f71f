"""What people see: the terminal's messages, bars and tables, and the report as a page."""
