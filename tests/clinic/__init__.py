"""Whole sick and healthy training programs, and the table that shows what the doctor makes of them."""
