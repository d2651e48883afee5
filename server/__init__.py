"""The live server of an online learning platform."""
