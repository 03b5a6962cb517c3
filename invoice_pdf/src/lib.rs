//! Invoices as PDF.
