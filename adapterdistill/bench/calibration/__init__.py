"""`bench calibration`: whether stated confidence and drift alarms hold on test rows."""
