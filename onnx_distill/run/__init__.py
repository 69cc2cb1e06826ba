"""A run on disk and over its hours: its folder and log, what it tells while it goes, what is left when it is over, several seeds of one."""
