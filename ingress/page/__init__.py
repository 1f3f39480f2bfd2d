"""The status page: what it shows, its drawing, and who serves it. It is made of the report, and changes nothing."""
