"""`bench calibration`: do stated confidence and drift alarms hold on test rows?"""
