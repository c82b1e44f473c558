"""Invoices of a web shop."""
