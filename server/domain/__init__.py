"""Pure rules that two floors need: no asyncio, no drivers, no clock."""
