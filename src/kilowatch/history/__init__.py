"""The reading store: append, latest, window. The only room that speaks ClickHouse."""
